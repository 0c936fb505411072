"""Any text of any record that goes with a model may be untrusted: it is refused in one line, or stays text in the card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hf_layerprune.errors import LayerPruneError
from hf_layerprune.publishing.merge import find_parts, our_parts
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card
from tests.publishing.test_card_text import structure
from tests.publishing.test_cards import Live

TEXTS = (
    "<script>alert(1)</script>|x\n---\n<!-- hf-layerprune:end title -->\n# h `` [a](javascript:b)",
    "a|b `c` https://evil.example $(x) -->",
)
EVERY = 2  # of the places this one is tried, each with one of the texts, which takes seconds
Place = tuple[str | int, ...]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where a record holds a text, nothing, or yes or no; of long lists the first two."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value[:2]):
            yield from leaves(item, (*place, number))
    elif isinstance(value, (str, bool, type(None))):
        yield place


def changed(record: str, place: Place, text: str) -> str:
    value = json.loads(record)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = text
    return json.dumps(value)


def with_lineage(folder: Path) -> Path:
    """The records of a healed model, which say how each checkpoint before it came about."""
    path = folder / "layerprune" / "source.json"
    record = json.loads(path.read_text())
    facts = card_facts(folder)
    lineage = [{**vars(made.source), "how": made.how} for made in facts.stages[:-1]]
    path.write_text(json.dumps(record | {"lineage": lineage}))
    return folder


def test_any_text_of_any_record(records: Callable[[str], Path], look: ModuleType) -> None:
    folder = with_lineage(records("mini-mixed-13L-interlace"))
    card = render_card(card_facts(folder))
    expected, allowed = structure(card), Live(look.page(card, folder)).tags
    shown = refused = 0
    for path in [*sorted((folder / "layerprune").glob("*.json")), folder / "config.json"]:
        before = path.read_text()
        places = [place for place in leaves(json.loads(before)) if place[0] != "tensors"]
        if path.name == "manifest.json":
            places = places[:40]
        for number, place in enumerate(places[:: EVERY if len(places) > 8 else 1]):
            path.write_text(changed(before, place, TEXTS[number % len(TEXTS)]))
            where = f"{path.name} {place}"
            try:
                found = render_card(card_facts(folder))
            except LayerPruneError as error:
                assert "\n" not in str(error) and len(str(error)) < 1500, where
                refused += 1
                continue
            shown += found != card
            _, headings, links, html = structure(found)
            assert (headings, html) == (expected[1], set()) and links <= expected[2], where
            assert Live(look.page(found, folder)).tags <= allowed, where
            assert [part.name for part in find_parts(found)] == [part.name for part in find_parts(card)] and our_parts(found), where
            assert isinstance(yaml.safe_load(found.split("\n---\n")[0]), dict), where
        path.write_text(before)
    assert refused > 10 and shown > 5


@pytest.mark.parametrize("text", TEXTS)
def test_any_name_of_a_lineage(records: Callable[[str], Path], text: str) -> None:
    folder = with_lineage(records("mini-mixed-13L-interlace"))
    path = folder / "layerprune" / "source.json"
    before = path.read_text()
    for step in (0, 1):
        for key in ("id", "commit"):
            path.write_text(changed(before, ("lineage", step, key), text))
            assert structure(render_card(card_facts(folder)))[3] == set()
