"""The quick start of a card, run as a reader would."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import load_processor
from hf_layerprune.publishing.card import write_card
from tests.card_commands import command
from tests.rewriting import rewrite

CARDS = Path(__file__).parents[2] / "cards"


def block(card: str, language: str) -> str:
    found = re.search(rf"^## Use$.*?^```{language}\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_it_answers_a_question_about_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a processor that does without torchvision, which the card says to install."""
    folder = tmp_path / "short"
    rewrite(Checkpoint.open(model_path(), "mini"), PruningPlan.load(CARDS / "mini-mixed-13L" / "layerprune" / "plan.json"), folder)
    monkeypatch.setattr("hf_layerprune.publishing.card.draw_figures", lambda facts: {})
    card = write_card(folder).read_text()
    assert block(card, "sh").split()[:2] == ["pip", "install"] and "torchvision" in block(card, "sh").split()
    assert command(card, "verify") == "hf-layerprune verify ./short --source mini"
    draw_example("counting", "evaluate", 0).image.save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoProcessor", SimpleNamespace(from_pretrained=lambda name: load_processor(Path(name))))
    exec(compile(block(card, "python"), "card", "exec"), {})
    assert capsys.readouterr().out.strip()
