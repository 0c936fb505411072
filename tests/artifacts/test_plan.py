"""plan.json: what is written is read back, and what contradicts itself is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.jsonfile import dump_json, parse_json
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import ArtifactError

KEYS = [
    "format", "source", "family", "budget", "strategy", "parameters", "score_meaning", "scores", "protected", "forced", "drop", "keep",
    "tune", "freeze", "relaxed", "strict_drop", "statistics", "original_layers",
]  # fmt: skip

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@st.composite
def plans(draw: st.DrawFn) -> PruningPlan:
    """Any plan that does not contradict itself."""
    layers = draw(st.integers(2, 12))
    roles = draw(st.lists(st.sampled_from(["drop", "tune", "freeze", "keep"]), min_size=layers, max_size=layers))
    roles[0], roles[-1] = "drop", "keep"
    of = {role: tuple(i for i in range(layers) if roles[i] == role) for role in ("drop", "tune", "freeze")}
    protected = tuple(sorted(draw(st.sets(st.integers(0, layers - 1)))))
    scores = draw(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=layers, max_size=layers))
    ancestors = st.sets(st.integers(0, 99), min_size=layers, max_size=layers)
    return PruningPlan(
        source=SourceRef(draw(TEXT), draw(st.none() | TEXT), draw(TEXT)),
        family=draw(TEXT),
        budget=Budget(draw(st.none() | TEXT), draw(st.sampled_from(["middle", "all", "count", "layers"])), len(of["drop"])),
        strategy=draw(TEXT),
        parameters=draw(st.dictionaries(TEXT, st.integers() | st.booleans() | TEXT, max_size=2)),
        score_meaning=draw(TEXT),
        scores=tuple(scores),
        protected=protected,
        forced=tuple(layer for layer in of["drop"] if layer in protected),
        keep=tuple(i for i in range(layers) if roles[i] != "drop"),
        **of,
        relaxed=draw(st.booleans()),
        strict_drop=tuple(sorted(draw(st.sets(st.integers(0, layers - 1))))),
        statistics=draw(st.none() | TEXT),
        original_layers=draw(st.none() | ancestors.map(sorted).map(tuple)),
    )


@given(plans())
def test_a_plan_survives_its_file_byte_for_byte(plan: PruningPlan) -> None:
    content = dump_json(plan.to_dict())
    read = PruningPlan.from_dict(parse_json(content, "plan.json", "plan"), "plan.json")
    assert read == plan and dump_json(read.to_dict()) == content


def test_the_file_has_the_keys_of_the_design_in_order(plan: PruningPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    value = json.loads((tmp_path / "plan.json").read_text())
    assert list(value) == KEYS
    assert value["scores"] == {"0": None, "1": 0.25, "2": -1.5, "3": 0.30000000000000004, "4": None}
    assert value["budget"] == {"asked": "0.34", "of": "middle", "layers": 1}
    assert '"keep": [0, 1, 2, 4],\n' in (tmp_path / "plan.json").read_text()
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_layers_are_counted_and_traced_to_the_first_ancestor(plan: PruningPlan) -> None:
    assert plan.layers == 5
    assert plan.kept_original_layers() == (0, 1, 3, 7)
    assert replace(plan, original_layers=None).kept_original_layers() == (0, 1, 2, 4)


def test_a_plan_is_for_one_checkpoint_under_any_name(plan: PruningPlan) -> None:
    moved = SourceRef("/elsewhere/mini", "1a2b3c", plan.source.fingerprint)
    assert plan.for_source(moved) == replace(plan, source=moved)
    with pytest.raises(ArtifactError) as caught:
        plan.for_source(SourceRef("other", None, "cd" * 32))
    assert str(caught.value) == (
        "the plan is for mini with fingerprint abababababab, but other has cdcdcdcdcdcd: another model or another revision. "
        "Make a new plan for it."
    )


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"keep": [0, 1, 2, 3, 4]}, "the plan both drops and keeps layer 3."),
    ({"keep": [0, 1, 4]}, "the plan's drop and keep are not the layers 0-3 once each; layer 2 is in neither."),
    ({"drop": [3, 3]}, "the plan's drop and keep are not the layers 0-5 once each; layer 5 is in neither."),
    ({"drop": [7]}, "the plan's drop and keep are not the layers 0-4 once each; layer 3 is in neither."),
    ({"drop": [-1]}, "the plan's drop and keep are not the layers 0-4 once each; layer 3 is in neither."),
    ({"keep": [1, 0, 2, 4]}, "the plan's 'keep' must be ascending layers between 0 and 4: [1, 0, 2, 4]."),
    ({"drop": [], "keep": [0, 1, 2, 3, 4]}, "the plan removes no layer."),
    ({"drop": [0, 1, 2, 3, 4], "keep": []}, "the plan removes every layer."),
    ({"protected": [0, 3]}, "the plan drops layer 3, which it protects; list it under 'forced' to remove it anyway."),
    ({"protected": [0, 9]}, "the plan's 'protected' must be ascending layers between 0 and 4: [0, 9]."),
    ({"forced": [2]}, "the plan forces layer 2, which it does not drop."),
    ({"drop": [2, 3], "keep": [0, 1, 4], "tune": [], "freeze": []}, "the plan's budget is 1 layers, but it drops 2."),
    ({"tune": [3]}, "the plan tunes or freezes layer 3, which it drops."),
    ({"freeze": [3]}, "the plan tunes or freezes layer 3, which it drops."),
    ({"tune": [1, 2]}, "the plan both tunes and freezes layer 1."),
    ({"strict_drop": [5]}, "the plan's 'strict_drop' must be ascending layers between 0 and 4: [5]."),
    ({"scores": {"0": 0.5}}, "the plan's scores must be a finite number or null for each of the 5 layers."),
    ({"scores": dict.fromkeys("01234", "high")}, "the plan's scores must be a finite number or null for each of the 5 layers."),
    ({"scores": dict.fromkeys("01234", True)}, "the plan's scores must be a finite number or null for each of the 5 layers."),
    ({"original_layers": [0, 1]}, "the plan's original_layers name 2 layers of 5."),
    ({"original_layers": [4, 3, 2, 1, 0]}, "the plan's original_layers must be ascending and not negative: [4, 3, 2, 1, 0]."),
    ({"original_layers": [-1, 0, 1, 2, 3]}, "the plan's original_layers must be ascending and not negative: [-1, 0, 1, 2, 3]."),
]


@pytest.mark.parametrize(("edit", "message"), CONTRADICTIONS)
def test_an_edited_plan_that_contradicts_itself_is_refused(plan: PruningPlan, tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_dict() | edit))
    with pytest.raises(ArtifactError) as caught:
        PruningPlan.load(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_plan_made_in_python_is_checked_alike(plan: PruningPlan) -> None:
    with pytest.raises(ArtifactError, match="both drops and keeps layer 3"):
        replace(plan, keep=(0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": 2}, "plan format 2; this version reads 1. Update hf-layerprune."),
        ({"format": "1"}, "plan format '1'; this version reads 1. Update hf-layerprune."),
        ({"format": True}, "plan format True; this version reads 1. Update hf-layerprune."),
        ({"drops": [3]}, "the plan's key 'drops' is unknown."),
        ({"drop": "3"}, "the plan's 'drop' is not a list of layer numbers: '3'."),
        ({"drop": [3.0]}, "the plan's 'drop' is not a list of layer numbers: [3.0]."),
        ({"drop": [True]}, "the plan's 'drop' is not a list of layer numbers: [True]."),
        ({"drop": None}, "the plan's 'drop' is not a list of layer numbers: None."),
        ({"parameters": 5}, "the plan's 'parameters' is 5, expected dict."),
        ({"relaxed": "no"}, "the plan's 'relaxed' is 'no', expected bool."),
        ({"strategy": None}, "the plan's 'strategy' is None, expected str."),
        ({"statistics": 5}, "the plan's 'statistics' is 5, expected str | None."),
        ({"scores": {"a": 1}}, "the plan is damaged (KeyError('0'))."),
        ({"scores": [0.5] * 5}, "the plan is damaged (TypeError("),
        ({"source": "mini"}, "the plan is damaged (TypeError("),
        ({"source": {"id": "mini"}}, "the plan is damaged (TypeError("),
        ({"source": {"id": "mini", "commit": None, "fingerprint": 5}}, "the plan is damaged (TypeError("),
        ({"budget": {"asked": "0.25", "of": "most", "layers": 1}}, "the plan is damaged (ValueError("),
        ({"budget": {"asked": "0.25", "of": "middle", "layers": 1.0}}, "the plan is damaged (ValueError("),
    ],
)
def test_damaged_and_newer_plans_are_refused(plan: PruningPlan, edit: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict() | edit)), "plan.json")
    assert str(caught.value).startswith(f"plan.json: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", KEYS[1:])
def test_every_key_is_needed(plan: PruningPlan, key: str) -> None:
    value = plan.to_dict()
    del value[key]
    with pytest.raises(ArtifactError, match=f"plan.json: the plan's key '{key}' is missing."):
        PruningPlan.from_dict(value, "plan.json")


def test_a_truncated_plan_is_refused_wherever_it_ends(plan: PruningPlan, tmp_path: Path) -> None:
    content = dump_json(plan.to_dict())
    path = tmp_path / "plan.json"
    for length in range(0, len(content) - 2, 7):  # without its last newline a plan is whole
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="not a valid plan"):
            PruningPlan.load(path)
