"""Make the models of cards/ and their records: one probe, four plans, one healing and its control, all evaluated on 500 samples a domain.

    python examples/record_cards.py build/cards && python examples/write_cards.py

takes some twenty minutes on two cores. Run again after an interruption, it goes on where it was. The models stay in the folder given;
their records go to cards/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CARDS = Path(__file__).parents[1] / "cards"
METHODS = ("mixed", "interlace", "cka", "random")
HEALED, CONTROL = "mini-mixed-13L-interlace", "mini-interlace"
RECIPE = ("--recipe", "interlace", "--set", "learning_rate=1e-3")
FOLDER = "layerprune"


def run(place: Path, *arguments: str) -> None:
    """A command of hf-layerprune in `place`, as a person types it."""
    print("hf-layerprune", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "hf_layerprune", *arguments], cwd=place, check=True)


def make_models(place: Path) -> list[str]:
    """Every model of cards/ but mini itself, in a folder of its name; what is there already is left as it is."""
    names = {method: f"mini-{method}-13L" for method in METHODS}
    if not (place / "statistics.safetensors").exists():
        run(place, "probe", "mini", "-o", "statistics.safetensors")
    for method, name in names.items():
        if not (place / name).exists():
            run(place, "plan", "statistics.safetensors", "--method", method, "--budget", "0.25", "-o", f"{name}.json", "--overwrite")
            run(place, "apply", "mini", f"{name}.json", "--statistics", "statistics.safetensors", "-o", name)
    for source, name in ((names["mixed"], HEALED), ("mini", CONTROL)):
        if not (place / name).exists():
            run(place, "heal", source, *RECIPE, "-o", name)
    return [*names.values(), HEALED, CONTROL]


def keep_records(model: Path) -> None:
    """Copy a model's records and config to cards/, without the weights, the answers and what write_cards.py makes."""
    card = CARDS / model.name
    shutil.rmtree(card, ignore_errors=True)
    left_out = shutil.ignore_patterns("answers*.jsonl", "*.png", "statistics.safetensors")
    shutil.copytree(model / FOLDER, card / FOLDER, ignore=left_out)
    shutil.copy(model / "config.json", card)


def main() -> None:
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    models = make_models(place)
    for name in models:
        run(place, "evaluate", name, "--against", "mini")
    run(place, "card", HEALED, "--pruned", "mini-mixed-13L", "--control", CONTROL)
    for name in models:
        keep_records(place / name)
    shutil.copy(place / "statistics.safetensors", CARDS / f"mini-{METHODS[0]}-13L" / FOLDER)


if __name__ == "__main__":
    main()
