"""cards/ holds what the records say: every card and figure is made again and compared."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parents[1].name for path in ROOT.glob("cards/*/layerprune/manifest.json"))


def test_every_family_of_method_and_a_healed_model_has_a_card() -> None:
    expected = {f"mini-{method}-13L" for method in ("mixed", "interlace", "cka", "random")} | {"mini-mixed-13L-interlace", "mini-interlace"}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_what_its_records_say(write_cards: ModuleType, tmp_path: Path, name: str) -> None:
    card, *pictures = write_cards.write(name, tmp_path)
    committed = ROOT / "cards" / name
    assert card.read_text(encoding="utf-8") == (committed / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in pictures] == sorted(path.name for path in committed.glob("layerprune/*.png"))
    for path in pictures:
        new, old = (np.asarray(Image.open(found).convert("RGB"), dtype=int) for found in (path, committed / "layerprune" / path.name))
        assert new.shape == old.shape and np.abs(new - old).mean() < 2, path.name


def test_cards_are_small() -> None:
    files = [path for name in NAMES for path in (ROOT / "cards" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
