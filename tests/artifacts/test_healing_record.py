"""`healing.json`: what it holds is typed when it is read, so that a damaged or hostile one is refused there and nowhere later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.errors import ArtifactError

SOURCE = dict.fromkeys("available used bad too_long left_out scaled samples tokens".split(), 1)
RECORD: dict[str, Any] = {
    "format": 1,
    "key": "0" * 64,
    "checkpoint": {"id": "mini", "commit": None, "fingerprint": "1" * 64},
    "recipe": {
        "name": "interlace",
        "paper": "INTERLACE",
        "data": "FineVision",
        "ours": ["max_length"],
        "method": "layers",
        "optimizer": "AdamW",
        "final_learning_rate": 0.0,
        "lora_targets": "",
        "learning_rate": 1,
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "batch_size": 8,
        "micro_batch_size": 4,
        "epochs": 1,
        "max_length": 8192,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-08,
        "gradient_checkpointing": "none",
        "precision": "bf16",
        "lora_rank": 0,
        "lora_alpha": 0,
        "lora_dropout": 0.0,
    },
    "overridden": ["learning_rate"],
    "trained": {"method": "layers", "layers": [5, 6], "chosen_by": "the plan (interlace)", "parameters": 12, "tensors": 2},
    "data": {
        "sources": [
            {"spec": "mini,count=1", "origin": "mini", "revision": None, "digest": "2" * 64}
            | SOURCE
            | {"filters": {"share": "0.01", "max_turns": None}, "rendered_math": False}
        ],
        "samples": 1,
        "max_length": 8192,
        "seed": 0,
        "reasons": [],
        "digest": "3" * 64,
    },
    "seed": 0,
    "engine": {"processes": 2, "device": "cpu", "zero_stage": 3},
    "curve": {name: [0.5, 0.25] for name in ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory")},
    "resumed": False,
    "versions": {"torch": "2.13.0"},
}


def written(folder: Path, record: dict[str, Any]) -> Path:
    path = folder / "healing.json"
    path.write_text(json.dumps(record))
    return path


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    record = HealingRecord.load(written(tmp_path, RECORD))
    assert record.recipe.learning_rate == 1.0 and record.trained.layers == (5, 6) and record.engine.zero_stage == 3
    assert record.data.sources[0].filters == {"share": "0.01", "max_turns": None}
    assert record.steps == 2 and record.seconds == 0.75
    assert json.loads(record.dump()) == RECORD and [*json.loads(record.dump())] == [*RECORD]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("trained"), "the record lacks the key 'trained'"),
        (lambda r: r.update(curves={}), "the record has an unexpected key 'curves'"),
        (lambda r: r.update(engine=[]), r"the record\.engine is \[\], expected an object"),
        (lambda r: r.update(checkpoint="mini"), r"the record\.checkpoint is 'mini', expected an object"),
        (lambda r: r.update(seed=True), r"the record\.seed is True, expected int"),
        (lambda r: r["recipe"].update(batch_size=8.5), r"the record\.recipe\.batch_size is 8\.5, expected int"),
        (lambda r: r["recipe"].update(learning_rate="1e-3"), r"the record\.recipe\.learning_rate is '1e-3', expected float"),
        (lambda r: r["trained"].update(layers="5"), r"the record\.trained\.layers is '5', expected a list"),
        (lambda r: r["trained"].update(layers=["5"]), r"the record\.trained\.layers is '5', expected int"),
        (lambda r: r["data"]["sources"][0].update(spec=None), r"the record\.data\.sources\.spec is None, expected str"),
        (lambda r: r["data"]["sources"][0].update(filters={"share": 1}), r"filters\.share is 1, expected str"),
        (lambda r: r["engine"].update(zero_stage="3"), r"the record\.engine\.zero_stage is '3', expected int"),
        (lambda r: r.update(overridden=["name of a setting"]), "the overridden setting 'name of a setting' is not one of the recipe"),
        (lambda r: r["curve"].update(loss=[0.5]), "the curve is not one list each of loss, learning_rate"),
        (lambda r: r["curve"].pop("memory"), "the curve is not one list each"),
        (lambda r: r.update(curve=[]), r"the record\.curve is \[\], expected an object"),
    ],
)
def test_a_damaged_record_is_refused_with_what_is_wrong(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    record = json.loads(json.dumps(RECORD))
    change(record)
    with pytest.raises(ArtifactError, match=rf"healing\.json: the healing record is damaged: .*{said}") as caught:
        HealingRecord.load(written(tmp_path, record))
    assert "\n" not in str(caught.value)
