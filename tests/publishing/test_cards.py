"""cards/ holds what the records say: every card and figure is written again and compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.figures.layer_map import draw_map
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import DARK, LIGHT, Theme
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card
from tests.publishing.test_card_text import HOSTILE, hostile_facts

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parents[1].name for path in ROOT.glob("cards/*/layerprune/manifest.json"))


def test_every_family_of_method_and_a_healed_model_has_a_card() -> None:
    expected = {f"mini-{method}-13L" for method in ("mixed", "interlace", "cka", "random")} | {"mini-mixed-13L-interlace", "mini-interlace"}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_what_its_records_say(write_cards: ModuleType, tmp_path: Path, name: str) -> None:
    card, *figures = write_cards.write(name, tmp_path)
    committed = ROOT / "cards" / name
    assert card.read_text(encoding="utf-8") == (committed / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in figures] == sorted(path.name for path in committed.glob("layerprune/*.png"))
    for path in figures:
        assert alike(path.read_bytes(), (committed / "layerprune" / path.name).read_bytes()), path.name


def test_the_readme_shows_the_evaluation_of_the_card_it_links_to(write_cards: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("```\n$ hf-layerprune evaluate ")[1].split("\n```\n")[0]
    name = shown.split()[0].removeprefix("./")
    assert f"](cards/{name})" in readme
    assert f"$ hf-layerprune evaluate {shown}" == write_cards.evaluation(name)
    report = EvalReport.load(ROOT / "cards" / name / "layerprune" / "eval.json")
    for row in report.rows:
        (line,) = (line for line in shown.splitlines() if line.startswith(f" {row.name} "))
        assert row.other and {f"{row.model.accuracy:.1f}", f"{row.other.accuracy:.1f}"} <= {*line.split()}
    assert write_cards.with_evaluation(readme, name) == readme
    changed = readme.replace(f" {report.rows[0].name} ", " other ")
    assert changed != readme and write_cards.with_evaluation(changed, name) == readme


def alike(one: bytes, other: bytes) -> bool:
    """Whether two figures show the same: letters may be drawn a little otherwise, but no area is, and few pixels are altogether."""
    new, old = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int) for content in (one, other))
    if new.shape != old.shape:
        return False
    strong = np.abs(new - old).max(-1) > 100
    area = Image.fromarray(strong.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(5)).getbbox()
    return area is None and float(strong.mean()) < 0.003


@pytest.mark.parametrize(("name", "theme"), [("mini-mixed-13L", LIGHT), ("mini-cka-13L", DARK), ("mini-interlace-13L", LIGHT)])
def test_a_score_that_is_changed_by_half_is_seen(records: Callable[[str], Path], name: str, theme: Theme) -> None:
    facts = card_facts(records(name))
    assert facts.plan
    before = draw_map(facts.plan, facts.statistics, theme)
    strongest = sorted(range(16), key=lambda layer: -abs(facts.plan.scores[layer] or 0) if facts.plan else 0)
    for layer in strongest[:2]:
        scores = tuple(score and score * (0.5 if number == layer else 1) for number, score in enumerate(facts.plan.scores))
        assert not alike(before, draw_map(replace(facts.plan, scores=scores), facts.statistics, theme))


def test_a_loss_that_is_changed_by_half_is_seen_and_letters_are_not(facts: CardFacts) -> None:
    import matplotlib

    assert facts.healing and facts.plan
    losses = list(facts.healing.curve["loss"])
    before = draw_loss(losses, LIGHT), draw_map(facts.plan, facts.statistics, DARK)
    with matplotlib.rc_context({"text.antialiased": False}):
        after = draw_loss(losses, LIGHT), draw_map(facts.plan, facts.statistics, DARK)
    assert before != after and all(map(alike, before, after))
    losses[10] /= 2
    assert not alike(before[0], draw_loss(losses, LIGHT))


def test_cards_are_small() -> None:
    files = [path for name in NAMES for path in (ROOT / "cards" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000


class Live(HTMLParser):
    """What of a page a browser acts upon: its elements, and where they lead or load from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.split("<body>", 1)[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.places |= {str(value) for name, value in attrs if name in ("href", "src", "srcset")}
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_untrusted_text_is_live_on_the_page(look: ModuleType, facts: CardFacts, tmp_path: Path, text: str) -> None:
    allowed = {"code", "pre", "h1", "h2", "p", "strong", "a", "ul", "li", "picture", "source", "img"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td"}
    live = Live(look.page(render_card(hostile_facts(facts, text)), tmp_path))
    assert live.tags == allowed
    images = {f"layerprune/{name}{theme}.png" for name in ("layer-map", "loss") for theme in ("", "-dark")}
    assert live.places == images | {"https://arxiv.org/abs/2603.20275"}


def test_a_card_as_a_page(look: ModuleType, facts: CardFacts, tmp_path: Path) -> None:
    folder = ROOT / "cards" / "mini-mixed-13L"
    page = look.page((folder / "README.md").read_text(encoding="utf-8"), folder)
    assert "<h1>mini-mixed-13L</h1>" in page and "library_name: transformers" not in page and "<td>" in page and "<picture>" in page
    assert f'<base href="{folder.as_uri()}/">' in page


def test_a_screenshot_of_each_theme(look: ModuleType, tmp_path: Path) -> None:
    """Not blank: each page shows its own theme's figure, in its colours."""
    if (chromium := look.browser()) is None:
        pytest.skip("there is no Chromium on the PATH")
    folder = ROOT / "cards" / "mini-mixed-13L"
    (tmp_path / "card.html").write_text(look.page((folder / "README.md").read_text(encoding="utf-8"), folder), encoding="utf-8")
    for theme, page, figure in (("light", (255, 255, 255), "layer-map.png"), ("dark", (13, 17, 23), "layer-map-dark.png")):
        shown = np.asarray(look.screenshot(chromium, tmp_path / "card.html", theme))
        assert shown.shape[0] > 2000 and tuple(shown[0, 0]) == page
        assert 0.01 < (shown != page).any(-1).mean() < 0.9
        drawn = np.asarray(Image.open(folder / "layerprune" / figure).convert("RGB"))
        colours = [colour for colour in map(tuple, np.unique(drawn.reshape(-1, 3), axis=0)) if (drawn == colour).all(-1).sum() > 2000]
        assert len(colours) >= 3 and all((shown == colour).all(-1).any() for colour in colours)
