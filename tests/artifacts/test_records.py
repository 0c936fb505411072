"""plan.json, manifest.json and healing.json: what is written is read back; what is damaged or contradicts itself is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import dump_json, parse_json
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import ArtifactError

KEYS = [
    "format", "source", "family", "budget", "strategy", "parameters", "score_meaning", "scores", "protected", "forced", "drop", "keep",
    "tune", "freeze", "relaxed", "strict_drop", "statistics", "original_layers",
]  # fmt: skip
HEALING: dict[str, Any] = json.loads(
    """{"format": 1, "key": "00",
"checkpoint": {"id": "mini", "commit": null, "fingerprint": "11"},
"recipe": {"name": "interlace", "paper": "INTERLACE", "data": "FineVision", "ours": ["max_length"], "method": "layers",
"optimizer": "AdamW", "final_learning_rate": 0.0, "lora_targets": "", "learning_rate": 1, "warmup_ratio": 0.03, "weight_decay": 0.0,
"batch_size": 8, "micro_batch_size": 4, "epochs": 1, "max_length": 8192, "max_grad_norm": 1.0,
"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08,
"gradient_checkpointing": "none", "precision": "bf16", "lora_rank": 0, "lora_alpha": 0, "lora_dropout": 0.0},
"overridden": ["learning_rate"],
"trained": {"method": "layers", "layers": [5, 6], "chosen_by": "the plan (interlace)", "parameters": 12, "tensors": 2},
"data": {"sources": [{"spec": "mini,count=1", "origin": "mini", "revision": null, "digest": "22", "available": 1, "used": 1, "bad": 1,
"too_long": 1, "left_out": 1, "scaled": 1, "samples": 1, "tokens": 1, "filters": {"share": "0.01", "max_turns": null},
"rendered_math": false}], "samples": 1, "max_length": 8192, "seed": 0, "reasons": [], "digest": "33"},
"seed": 0,
"engine": {"processes": 2, "device": "cpu", "zero_stage": 3},
"curve": {"loss": [0.5, 0.25], "learning_rate": [0.5, 0.25], "grad_norm": [0.5, 0.25], "tokens": [0.5, 0.25], "seconds": [0.5, 0.25],
"memory": [0.5, 0.25]},
"resumed": false, "versions": {"torch": "2.13.0"}}"""
)
MANIFEST = {
    "format": 1,
    "source": {"id": "mini", "commit": None, "fingerprint": "ab"},
    "writer": "1",
    "shard_policy": "source",
    "files": {"config.json": {"bytes": 12, "sha256": "aa"}, "model.safetensors": {"bytes": 1 << 40, "sha256": "bb"}},
    "tensors": {"layers.1.w": "layers.2.w"},
}
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


def test_the_plans_file_has_the_keys_of_the_design_in_order(plan: PruningPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    value = json.loads(text)
    assert list(value) == KEYS and '"keep": [0, 1, 2, 4],\n' in text
    assert value["scores"] == {"0": None, "1": 0.25, "2": -1.5, "3": 0.30000000000000004, "4": None}
    assert value["budget"] == {"asked": "0.34", "of": "middle", "layers": 1}
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_layers_are_counted_and_traced_to_the_first_ancestor(plan: PruningPlan) -> None:
    assert plan.layers == 5
    assert plan.kept_original_layers() == (0, 1, 3, 7)
    assert replace(plan, original_layers=None).kept_original_layers() == (0, 1, 2, 4)


def test_a_plan_is_for_one_checkpoint_under_any_name(plan: PruningPlan) -> None:
    moved = SourceRef("/elsewhere/mini", "1a2b3c", plan.source.fingerprint)
    assert plan.for_source(moved) == replace(plan, source=moved)
    with pytest.raises(ArtifactError, match="for mini with fingerprint abababababab, but other has cdcdcdcdcdcd: another model"):
        plan.for_source(SourceRef("other", None, "cd" * 32))


def test_a_plan_made_in_python_is_checked_alike(plan: PruningPlan) -> None:
    with pytest.raises(ArtifactError, match="both drops and keeps layer 3"):
        replace(plan, keep=(0, 1, 2, 3, 4))


def test_a_truncated_plan_is_refused_wherever_it_ends(plan: PruningPlan, tmp_path: Path) -> None:
    content = dump_json(plan.to_dict())
    path = tmp_path / "plan.json"
    for length in range(0, len(content) - 2, 7):  # without its last newline a plan is whole
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="not a valid plan"):
            PruningPlan.load(path)


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    files = {"config.json": FileRecord(12, "aa"), "model.safetensors": FileRecord(1 << 40, "bb")}
    manifest = Manifest(SourceRef("mini", None, "ab"), "1", "source", files, {"layers.1.w": "layers.2.w"})
    path.write_bytes(manifest.dump())
    assert json.loads(path.read_bytes()) == MANIFEST
    assert Manifest.load(path) == manifest and path.read_bytes() == manifest.dump()
    healed = replace(manifest, shard_policy=5, changed=("layers.1.w",), trained=("layers.1.w",))
    path.write_bytes(healed.dump())
    assert Manifest.load(path) == healed


def test_a_healing_record_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "healing.json").write_text(json.dumps(HEALING))
    record = HealingRecord.load(tmp_path / "healing.json")
    assert record.recipe.learning_rate == 1.0 and record.trained.layers == (5, 6) and record.engine.zero_stage == 3
    assert record.data.sources[0].filters == {"share": "0.01", "max_turns": None}
    assert record.steps == 2 and record.seconds == 0.75
    assert json.loads(record.dump()) == HEALING and [*json.loads(record.dump())] == [*HEALING]


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"keep": [0, 1, 2, 3, 4]}, "both drops and keeps layer 3"),
    ({"keep": [0, 1, 4]}, "neither drops nor keeps layer 2"),
    ({"drop": [3, 3]}, "neither drops nor keeps layer 5"),
    ({"drop": [7]}, "neither drops nor keeps layer 3"),
    ({"drop": [-1]}, "neither drops nor keeps layer 3"),
    ({"keep": [1, 0, 2, 4]}, r"'keep' must be ascending layers between 0 and 4: \[1, 0, 2, 4\]"),
    ({"drop": [], "keep": [0, 1, 2, 3, 4]}, "removes no layer"),
    ({"drop": [0, 1, 2, 3, 4], "keep": []}, "removes every layer"),
    ({"protected": [0, 3]}, "drops layer 3, which it protects; list it under 'forced' to remove it anyway"),
    ({"protected": [0, 9]}, "'protected' must be ascending layers between 0 and 4"),
    ({"forced": [2]}, "forces layer 2, which it does not drop"),
    ({"drop": [2, 3], "keep": [0, 1, 4], "tune": [], "freeze": []}, "budget is 1 layers, but it drops 2"),
    ({"tune": [3]}, "tunes or freezes layer 3, which it drops"),
    ({"freeze": [3]}, "tunes or freezes layer 3, which it drops"),
    ({"tune": [1, 2]}, "both tunes and freezes layer 1"),
    ({"strict_drop": [5]}, "'strict_drop' must be ascending layers between 0 and 4"),
    ({"scores": {"0": 0.5}}, "a finite number or null for each of the 5 layers"),
    ({"scores": dict.fromkeys("01234", 1e400)}, "a finite number or null for each of the 5 layers"),
    ({"original_layers": [0, 1]}, "5 ascending layers, none negative"),
    ({"original_layers": [4, 3, 2, 1, 0]}, "5 ascending layers, none negative"),
    ({"original_layers": [-1, 0, 1, 2, 3]}, "5 ascending layers, none negative"),
]
DAMAGED_PLANS: list[tuple[dict[str, Any], str]] = [
    *(({"format": value}, "plan format .*; this version reads 1. Update hf-layerprune") for value in (2, "1", True, None)),
    ({"drops": [3]}, "unexpected key 'drops'"),
    *(({"drop": value}, "plan.drop is .*expected") for value in ("3", [3.0], [True], None)),
    ({"parameters": 5}, "plan.parameters is 5, expected an object"),
    ({"relaxed": "no"}, "plan.relaxed is 'no', expected bool"),
    ({"strategy": None}, "plan.strategy is None, expected str"),
    ({"statistics": 5}, "plan.statistics is 5, expected str"),
    *(({"scores": value}, "scores are not an object with a key for each layer") for value in ({"a": 1}, [0.5] * 5)),
    *(({"scores": dict.fromkeys("01234", value)}, "plan.scores is .*expected float") for value in ("high", True)),
    ({"scores": dict.fromkeys("01234", 10**400)}, "too large"),
    ({"source": "mini"}, "plan.source is 'mini', expected an object"),
    ({"source": {"id": "mini"}}, "plan.source lacks the key 'commit'"),
    ({"source": {"id": "mini", "commit": None, "fingerprint": 5}}, "plan.source.fingerprint is 5, expected str"),
    ({"budget": {"asked": "0.25", "of": "most", "layers": 1}}, "plan.budget.of is 'most', expected one of"),
    ({"budget": {"asked": "0.25", "of": "middle", "layers": 1.0}}, "plan.budget.layers is 1.0, expected int"),
]


@pytest.mark.parametrize(("edit", "message"), CONTRADICTIONS + DAMAGED_PLANS)
def test_an_edited_plan_is_refused(plan: PruningPlan, tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_dict() | edit).replace("Infinity", "1e400"))
    refused(lambda: PruningPlan.load(path), f"{path}: .*{message}")


def test_every_key_of_a_plan_is_needed(plan: PruningPlan) -> None:
    assert {field.name for field in fields(PruningPlan)} == {*KEYS}
    for key in KEYS[1:]:
        value = {name: item for name, item in plan.to_dict().items() if name != key}
        refused(lambda value=value: PruningPlan.from_dict(value, "plan.json"), f"plan.json: the plan lacks the key '{key}'")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": 2}, "manifest format 2; this version reads 1. Update hf-layerprune"),
        ({"files": []}, r"manifest.files is \[\], expected an object"),
        ({"files": {"a": {"bytes": 1}}}, "manifest.files.a lacks the key 'sha256'"),
        ({"files": {"a": {"bytes": "many", "sha256": "aa"}}}, "manifest.files.a.bytes is 'many', expected int"),
        ({"files": {"a": {"bytes": 1e400, "sha256": "aa"}}}, "manifest.files.a.bytes is inf, expected int"),
        ({"tensors": None}, "manifest.tensors is None, expected an object"),
        ({"shard_policy": 0.5}, "manifest.shard_policy is 0.5, expected str"),
        ({"source": {"id": "mini"}}, "manifest.source lacks the key 'commit'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST | edit).replace("Infinity", "1e400"))
    refused(lambda: Manifest.load(path), f"{path}: .*{message}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("trained"), "the healing record lacks the key 'trained'"),
        (lambda r: r.update(curves={}), "the healing record has an unexpected key 'curves'"),
        (lambda r: r.update(engine=[]), r"the healing record\.engine is \[\], expected an object"),
        (lambda r: r.update(checkpoint="mini"), r"the healing record\.checkpoint is 'mini', expected an object"),
        (lambda r: r.update(seed=True), r"the healing record\.seed is True, expected int"),
        (lambda r: r["recipe"].update(batch_size=8.5), r"the healing record\.recipe\.batch_size is 8\.5, expected int"),
        (lambda r: r["recipe"].update(learning_rate="1e-3"), r"the healing record\.recipe\.learning_rate is '1e-3', expected float"),
        (lambda r: r["trained"].update(layers="5"), r"the healing record\.trained\.layers is '5', expected a list"),
        (lambda r: r["trained"].update(layers=["5"]), r"the healing record\.trained\.layers is '5', expected int"),
        (lambda r: r["data"]["sources"][0].update(spec=None), r"the healing record\.data\.sources\.spec is None, expected str"),
        (lambda r: r["data"]["sources"][0].update(filters={"share": 1}), r"filters\.share is 1, expected str"),
        (lambda r: r["engine"].update(zero_stage="3"), r"the healing record\.engine\.zero_stage is '3', expected int"),
        (lambda r: r.update(overridden=["name of a setting"]), "the overridden setting 'name of a setting' is not one of the recipe"),
        (lambda r: r["curve"].update(loss=[0.5]), "the curve is not one list each of loss, learning_rate"),
        (lambda r: r["curve"].pop("memory"), "the curve is not one list each"),
        (lambda r: r.update(curve=[]), r"the healing record\.curve is \[\], expected an object"),
    ],
)
def test_a_damaged_healing_record_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    record, path = json.loads(json.dumps(HEALING)), tmp_path / "healing.json"
    change(record)
    path.write_text(json.dumps(record))
    refused(lambda: HealingRecord.load(path), rf"healing\.json: the healing record is damaged: .*{said}")


def refused(load: Callable[[], object], pattern: str) -> None:
    """On one line, that says where and what."""
    with pytest.raises(ArtifactError, match=pattern) as caught:
        load()
    assert "\n" not in str(caught.value)


@given(text=st.text("ab-_./é G", max_size=12) | st.from_regex(r"\A[\w.-]{1,5}/[\w.-]{90,100}\Z"))
@example(text="me/a--b")
@example(text="me/a..b")
@example(text="me/a.git")
@example(text="me/a.")
@example(text="-me/a")
@example(text="me/a\n")
@example(text="_me_/_a_")
def test_a_hub_id_is_what_huggingface_hub_takes_for_one(text: str) -> None:
    try:
        validate_repo_id(text)
        valid = text.count("/") == 1
    except HFValidationError:
        valid = False
    assert is_hub_id(text) is valid
