"""The figures: one for each theme, from the records, whatever these hold."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.figures.layer_map import _which_go, draw_map
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import DARK, LIGHT, Theme
from hf_layerprune.publishing import card as figures
from hf_layerprune.publishing.card import draw_figures, write_card
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.options import CardOptions
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def colour(text: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(text[1:]))


def holds(picture: np.ndarray, text: str) -> bool:
    return bool((picture == colour(text)).all(-1).any())


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_map_is_in_its_themes_colours(facts: CardFacts, theme: Theme) -> None:
    assert facts.plan
    picture = pixels(draw_map(facts.plan, facts.statistics, theme))
    assert tuple(picture[0, 0]) == colour(theme.page)
    assert all(holds(picture, text) for text in (theme.math, theme.general, theme.removed, theme.kept))


def luminance(text: str) -> float:
    shares = [value / 255 for value in colour(text)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_and_text_stand_out_from_the_page(theme: Theme) -> None:
    for text, least in ((theme.ink, 7), (theme.math, 3), (theme.general, 3), (theme.removed, 3), (theme.kept, 3)):
        light, dark = sorted((luminance(text), luminance(theme.page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, text


def test_a_map_without_statistics_or_scores_is_drawn_too(facts: CardFacts) -> None:
    assert facts.plan
    by_hand = replace(facts.plan, scores=(None,) * facts.plan.layers)
    heights = [
        pixels(draw_map(plan, found, LIGHT)).shape[0]
        for plan, found in ((facts.plan, facts.statistics), (facts.plan, None), (by_hand, None))
    ]
    assert heights[0] > heights[1] > heights[2]


CURVES = {
    "one": [1.0],
    "zero": [0.0, 0.0],
    "long": np.linspace(2, 1, 1000).tolist(),
    "nan": [float("nan"), 1.0],
    "inf": [float("inf"), 1.0],
    "huge": [1e308, -1e308],
}


@pytest.mark.parametrize("losses", CURVES.values(), ids=CURVES)
def test_any_curve_is_drawn(losses: Sequence[float]) -> None:
    assert pixels(draw_loss(losses, LIGHT)).shape == pixels(draw_loss(losses, DARK)).shape


@pytest.mark.parametrize("scores", [(0.99, 0.999, 1.0), (0.5, 0.5, 0.5), (7.0, 7.5, 8.0), (1.0, 1.0, 1.0), (-1.0, 0.5, 2.0)])
def test_scores_near_each_other_are_drawn_apart(facts: CardFacts, scores: tuple[float, ...]) -> None:
    """Of a similarity near 1 it is what lacks to 1 that tells layers apart; a lone score far below is a bar too."""
    assert facts.plan
    plan = replace(facts.plan, scores=(-0.5, *(scores * 5)))
    picture = pixels(draw_map(plan, None, LIGHT))
    heights = {int((picture[:, column] == colour(LIGHT.kept)).all(-1).sum()) for column in range(100, 700)} - {0}
    assert len({height // 4 for height in heights}) >= len(set(scores)) or len(set(scores)) == 1


def test_which_scores_go_is_said(facts: CardFacts) -> None:
    assert facts.plan
    drop = facts.plan.drop

    def said(*scores: float) -> str:
        assert facts.plan
        return _which_go(replace(facts.plan, scores=scores))

    first = [1.0 if layer in drop else 0.0 for layer in range(16)]
    assert said(*first) == "the highest go" and said(*(-score for score in first)) == "the lowest go"
    first[8] = 2.0
    assert said(*first) == "high ones go" and said(*(-score for score in first)) == "low ones go"


def test_a_relaxed_plan_is_called_so_in_its_map(facts: CardFacts) -> None:
    assert facts.plan and not facts.plan.relaxed
    relaxed = replace(facts.plan, relaxed=True, strict_drop=(6,))
    strict, said = (pixels(draw_map(plan, facts.statistics, LIGHT)) for plan in (facts.plan, relaxed))
    legend = slice(0, 30)  # rows of pixels
    assert (strict[legend] != said[legend]).any() and (strict[60:] == said[60:]).mean() > 0.9


def test_scores_that_no_axis_can_hold_are_drawn_too(facts: CardFacts) -> None:
    assert facts.plan
    plan = replace(facts.plan, scores=(1e308, -1e308, *facts.plan.scores[2:]))
    assert pixels(draw_map(plan, facts.statistics, LIGHT)).any()


def test_without_matplotlib_there_are_no_figures_and_the_card_shows_none(facts: CardFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert figures.draw_figures(facts) == {}
    assert "<picture>" not in render_card(facts)
    assert render_card(replace(facts, figures=frozenset({"layer-map.png", "loss.png"}))).count("<picture>") == 2


def test_without_matplotlib_figures_that_are_there_stay(
    records: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = records("mini-mixed-13L-interlace")
    note = figures.figures_note(folder, card_facts(folder))
    write_card(folder)
    drawn = {path.name: path.read_bytes() for path in folder.glob("layerprune/*.png")}
    card = (folder / "README.md").read_text()
    assert note is None and len(drawn) == 4 and card.count("<picture>") == 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write_card(folder).read_text() == card and figures.figures_note(folder, card_facts(folder)) is None
    elsewhere = write_card(folder, tmp_path / "card.md")
    assert elsewhere.read_text().count("<picture>") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "layerprune").glob("*.png")} == drawn


@pytest.mark.parametrize("content", [None, b"", b"<svg>", b"link"])
def test_a_figure_that_is_missing_or_none_is_not_shown_and_said(
    records: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    folder = records("mini-mixed-13L-interlace")
    write_card(folder)
    dark, secret = folder / "layerprune" / "loss-dark.png", tmp_path / "secret"
    dark.rename(secret)
    if content == b"link":
        dark.symlink_to(secret)
    elif content is not None:
        dark.write_bytes(content)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    facts = card_facts(folder)
    assert sorted(figures.files_beside(folder, facts, CardOptions())) == ["layer-map-dark.png", "layer-map.png"]
    assert figures.figures_note(folder, facts) == (
        "the card has no figures (loss.png): matplotlib draws them, and is not installed (pip install matplotlib)."
    )
    card = write_card(folder).read_text()
    assert "layer-map.png" in card and "loss" not in re.findall(r'src="layerprune/([a-z]+)', card) and card.count("<picture>") == 1


def test_a_healed_model_has_four(facts: CardFacts) -> None:
    assert sorted(draw_figures(facts)) == ["layer-map-dark.png", "layer-map.png", "loss-dark.png", "loss.png"]
