"""How values show themselves: a repr of one line of at most 500 characters, a few lines for print, the same or a drawing in notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hf_layerprune import EvalReport, HealingRecord, LayerPruner, LayerStatistics, Manifest, PruningPlan, Selection
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.publishing.push import Pushed
from tests.plans import facts_of, plan_of, statistics_of

CARDS = Path(__file__).parents[1] / "cards"
PRUNED, HEALED = CARDS / "mini-mixed-13L/layerprune", CARDS / "mini-mixed-13L-interlace/layerprune"
SVG = "{http://www.w3.org/2000/svg}"


def of_mini() -> list[Any]:
    files = ("sha256 " * 9,) * 20
    return [
        LayerPruner.from_pretrained("mini", statistics_folder=None).checkpoint,
        PruningPlan.load(PRUNED / "plan.json"),
        LayerStatistics.load(PRUNED / "statistics.safetensors"),
        EvalReport.load(PRUNED / "eval.json"),
        Manifest.load(PRUNED / "manifest.json"),
        Manifest.load(HEALED / "manifest.json"),
        HealingRecord.load(HEALED / "healing.json"),
        Pushed("https://huggingface.co/me/mini-13L", "0123456789" * 4, "refs/pr/3", files, (), files, files, True),
    ]


def of_94_layers() -> list[Any]:
    """As Qwen3-VL-235B-A22B has them, half of them removed, and the rest pruned from a model of twice the depth."""
    facts = facts_of(94, original=tuple(range(0, 188, 2)))
    plan = plan_of(facts, layers=list(range(1, 94, 2)), force=True)
    record = HealingRecord.load(HEALED / "healing.json")
    trained = replace(record.trained, layers=tuple(range(94)))
    return [
        facts,
        plan,
        replace(plan, strategy="mixed", scores=(0.123456789,) * 94, tune=plan.keep),
        statistics_of(facts),
        Selection({layer: layer / 97 for layer in range(94)}, plan.drop, plan.keep),
        replace(record, trained=trained, data=replace(record.data, sources=record.data.sources * 50)),
    ]


class Tags(HTMLParser):
    """Collects the names of the tags it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def within(value: object) -> Iterator[object]:
    """A value and every dataclass that it holds."""
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from within(getattr(value, field.name))
    elif isinstance(value, (tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from within(inner)


@pytest.mark.parametrize("values", [of_mini, of_94_layers])
def test_no_repr_is_long(values: Any) -> None:
    for value in values():
        for part in within(value):
            assert len(repr(part)) <= 500 and "\n" not in repr(part), repr(part)
            assert repr(part).startswith(type(part).__name__ + "(")


def test_what_they_say() -> None:
    checkpoint, plan, statistics, report, manifest, healed, record, pushed = of_mini()
    assert repr(checkpoint).startswith("Checkpoint('mini', qwen3_vl, 16 decoder layers, 3,829,056 parameters in 253 tensors, ")
    assert repr(checkpoint.facts) == "ModelFacts('mini', qwen3_vl, 16 decoder layers x 128, 3 with DeepStack)"
    assert repr(plan) == "PruningPlan('mini', 'mixed', removes 3 of 16 layers: 5, 10, 13)"
    assert repr(statistics) == "LayerStatistics('mini', 16 decoder layers, 160 passes over math images, 128 passes over nonmath images)"
    assert str(statistics).splitlines()[0] == "mini: 16 decoder layers, 288 passes" and "highest at layers" in str(statistics)
    assert repr(report) == "EvalReport('mini-mixed-13L', against 'mini', mini-math 68.8 % of 500, mini-general 88.0 % of 500)"
    assert "bit for bit" in repr(manifest) and "33 of them fine-tuned" in repr(healed)
    assert repr(record) == "HealingRecord('mini-mixed-13L', 'interlace', 128 steps, loss 0.1352 to 0.0392)"
    assert {"data    4,096 samples of mini", "changed learning_rate = 0.001"} <= {*str(record).splitlines()}
    assert repr(pushed).endswith("commit 0123456, refs/pr/3, files: 20 sent, 20 deleted, 20 not published)")


def test_print_of_a_report_is_the_table_of_the_command() -> None:
    lines = str(EvalReport.load(PRUNED / "eval.json")).splitlines()
    assert max(map(len, lines)) <= 80
    assert " math-direct     89.0 ± 3.1   30.0 ± 4.6  (-59.0, -66.3 %)   worse, p < 0.001" in lines


def test_notebooks_show_them() -> None:
    """IPython's own formatters, as a notebook calls them: never the long line."""
    formatters = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    for value in [*of_mini(), *of_94_layers()]:
        data, _ = formatters.format(value)
        assert "<pre>" in data["text/html"] and len(data["text/plain"]) <= 500


def test_the_map_draws_every_layer_once() -> None:
    plan = PruningPlan.load(PRUNED / "plan.json")
    drawing = plan._repr_html_().partition("<pre>")[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    layers = list(ElementTree.fromstring(drawing).iter(f"{SVG}g"))
    assert [int(layer.findall(f"{SVG}text")[-1].text or "") for layer in layers] == list(range(16))
    assert [i for i, layer in enumerate(layers) if any(text.text == "✕" for text in layer.iter(f"{SVG}text"))] == [5, 10, 13]
    assert [layer[0].text for layer in layers][:6:5] == ["layer 0: protected", f"layer 5: removed, score {plan.scores[5]:.6g}"]
    heights = [int(layer[1].get("height", "")) for layer in layers]
    assert max(heights) == heights[10] and heights[0] < min(heights[3:15])


def test_nothing_untrusted_becomes_markup() -> None:
    """Names come from files that anyone may have written."""
    hostile = "<script>alert(1)</script>"
    plan, report = PruningPlan.load(PRUNED / "plan.json"), EvalReport.load(PRUNED / "eval.json")
    source = SourceRef(hostile, None, "0" * 64)
    row = replace(report.rows[0], task=hostile, subtask=hostile)
    values = [
        replace(plan, source=source, strategy=hostile, relaxed=True),
        replace(report, model=replace(report.model, source=source), tasks=(replace(report.tasks[0], name=hostile),), rows=(row,)),
        replace(HealingRecord.load(HEALED / "healing.json"), checkpoint=source),
        replace(Manifest.load(PRUNED / "manifest.json"), source=source),
        replace(facts_of(), source=source),
    ]
    for value in values:
        parser = Tags()
        parser.feed(value._repr_html_())
        assert parser.seen and "script" not in parser.seen


def test_a_name_of_many_lines_stays_one_line() -> None:
    plan = replace(PruningPlan.load(PRUNED / "plan.json"), source=SourceRef("a\nb" * 400, None, "0" * 64))
    assert "\n" not in repr(plan) and len(repr(plan)) <= 500
