"""Write the cards in cards/ again from the records beside them, as `hf-layerprune card` does, and README's evaluation table.

    python examples/write_cards.py

A folder of cards/ holds what hf-layerprune wrote but the weights and the tokenizer. All plans there that were made from a probe were
made from the same one, so its statistics are kept once, in cards/mini-mixed-13L. CI writes the cards again and compares.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.score_table import note_lines, score_lines
from hf_layerprune.publishing.card import write_card

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "cards"
STATISTICS = CARDS / "mini-mixed-13L" / "layerprune" / "statistics.safetensors"


def names() -> list[str]:
    return sorted(path.parents[1].name for path in CARDS.glob("*/layerprune/manifest.json"))


def assemble(name: str, place: Path) -> Path:
    """The records of a card in a folder of their own, with the statistics that its plan was made from, and no card."""
    folder = place / name
    shutil.copytree(CARDS / name, folder, ignore=shutil.ignore_patterns("README.md", "*.png"))
    plan = folder / "layerprune" / "plan.json"
    if plan.is_file() and PruningPlan.load(plan).statistics == hashlib.sha256(STATISTICS.read_bytes()).hexdigest():
        shutil.copy(STATISTICS, folder / "layerprune")
    return folder


def write(name: str, place: Path) -> list[Path]:
    """Write a card and its figures below `place`; their paths."""
    folder = assemble(name, place)
    return [write_card(folder), *sorted(folder.glob("layerprune/*.png"))]


def evaluation(name: str) -> str:
    """What `hf-layerprune evaluate` prints for a model of cards/, from its record, as README shows it."""
    report = EvalReport.load(CARDS / name / "layerprune" / "eval.json")
    against = f" --against {report.against.id}" if report.against else ""
    lines = [*score_lines(report), "", *note_lines(report, "--max-new-tokens"), f"answers {name}/layerprune/answers.jsonl"]
    return "\n".join([f"$ hf-layerprune evaluate ./{name}{against}", *map(str.rstrip, lines)])


def with_evaluation(readme: str, name: str) -> str:
    """README with the evaluation of a model in place of the one that it shows of it."""
    shown = re.compile(rf"(?<=^```\n)\$ hf-layerprune evaluate \./{name}\b.*?(?=\n```$)", re.MULTILINE | re.DOTALL)
    return shown.sub(lambda _: evaluation(name), readme)


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_evaluation(readme.read_text(encoding="utf-8"), "mini-mixed-13L"), encoding="utf-8")
    for name in names():
        with tempfile.TemporaryDirectory() as place:
            for path in write(name, Path(place)):
                shutil.copy(path, CARDS / path.relative_to(place))


if __name__ == "__main__":
    main()
