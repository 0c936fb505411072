"""Qwen3-VL with experts: what its configs may say, both layouts of experts on disk, and a checkpoint of the largest one's size."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_layerprune
from hf_layerprune.checkpoint.config import shorten_config
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import plan_shards
from hf_layerprune.errors import CheckpointError, ModelError
from hf_layerprune.models.loading import check_loads
from tests.measured import MEASURED
from tests.tiny_checkpoint import make_plan, make_tensors, write_weights
from tests.tiny_moe import config_235b_a22b, moe_checkpoint, moe_config
from tests.tiny_shapes import tensor_shapes


@pytest.mark.parametrize(
    ("dense", "drop", "left"), [([2, 5], (1,), [1, 4]), ([5, 2], (2,), [4]), ([2], (2, 3), []), ([], (4,), []), (None, (4,), None)]
)
def test_dense_layers_are_renumbered(tmp_path: Path, dense: list[int] | None, drop: tuple[int, ...], left: list[int] | None) -> None:
    checkpoint = Checkpoint.open(moe_checkpoint(tmp_path / "tiny", text_config__mlp_only_layers=dense), "tiny")
    short = shorten_config(checkpoint.config, make_plan(checkpoint, drop), checkpoint.family)
    assert short["text_config"]["mlp_only_layers"] == left
    assert short["text_config"].keys() == checkpoint.config["text_config"].keys()


Tensors = dict[str, np.ndarray]
LAYER = "model.language_model.layers.3.mlp."


def altered(folder: Path, alter: Callable[[Tensors], object], **overrides: Any) -> Path:
    """A checkpoint whose tensors went through `alter` before they were written."""
    moe_checkpoint(folder, **overrides)
    tensors = make_tensors(moe_config(**overrides))
    alter(tensors)
    write_weights(folder, tensors)
    return folder


def exchange(tensors: Tensors, *dimensions: int) -> None:
    """Reorder the dimensions of every tensor of experts."""
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name] = np.ascontiguousarray(tensors[name].transpose(dimensions))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_both_layouts_open(tmp_path: Path, order: tuple[int, ...]) -> None:
    folder = altered(tmp_path / "tiny", lambda tensors: exchange(tensors, *order))
    assert Checkpoint.open(folder, "tiny").notes == ()


def transposed(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{LAYER}{name}": np.ascontiguousarray(tensors[f"{LAYER}{name}"].swapaxes(-1, -2))})


DAMAGED: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "one layer's experts transposed": (
        transposed("experts.gate_up_proj"),
        r"layers.3.mlp.experts.gate_up_proj' is BF16 \[5, 24, 32\], its siblings are BF16 \[5, 32, 24\]",
    ),
    "no router": (lambda t: t.pop(f"{LAYER}gate.weight"), "layer 3 has 10 tensors, expected 11 .*; missing .*mlp.gate.weight"),
    "one tensor an expert": (
        lambda t: t.update({f"{LAYER}experts.0.up_proj.weight": t.pop(f"{LAYER}experts.gate_up_proj")[0]}),
        "layer 3 has 11 tensors, expected 11 .*; missing .*mlp.experts.gate_up_proj",
    ),
    "dense on disk": (
        lambda t: t.update({f"{LAYER}{name}.weight": np.zeros((48, 32), np.uint16) for name in ("gate_proj", "up_proj", "down_proj")}),
        "layer 3 has 14 tensors, expected 11 .*; unexpected .*mlp.down_proj.weight",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_not_what_the_config_says(tmp_path: Path, damage: Callable[[Tensors], object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(altered(tmp_path / "tiny", damage), "tiny")


def test_a_shape_that_all_layers_share_is_judged_where_the_model_loads(tmp_path: Path) -> None:
    """Experts last: no layer differs from its siblings."""
    folder = altered(tmp_path / "tiny", lambda tensors: exchange(tensors, 1, 2, 0))
    assert Checkpoint.open(folder, "tiny").facts.layers == 6
    with pytest.raises(ModelError, match=r"(mismatch|size|shape)"):
        check_loads(folder)


def test_dense_layers_are_judged_among_themselves(tmp_path: Path) -> None:
    config = {"text_config__mlp_only_layers": [2, 3, 4]}
    assert Checkpoint.open(altered(tmp_path / "whole", lambda tensors: None, **config), "tiny").notes == ()
    damage = transposed("up_proj.weight")
    with pytest.raises(CheckpointError, match=r"layers.3.mlp.up_proj.weight' is BF16 \[32, 48\], its siblings are BF16 \[48, 32\]"):
        Checkpoint.open(altered(tmp_path / "damaged", damage, **config), "tiny")


LIMIT = 4_000_000_000  # bytes of tensors a shard; a tensor of 3.2 GB and one of 1.6 GB make a layer
EXPERT_BYTES = 2 * 128 * (4096 * 2 * 1536 + 1536 * 4096)
ATTENTION_BYTES = 2 * (2 * 4096 * 64 * 128 + 2 * 4096 * 4 * 128 + 2 * 4096 + 2 * 128)
ONE_LAYER = EXPERT_BYTES + ATTENTION_BYTES + 2 * 128 * 4096  # by hand, the router last


def write_sparse(folder: Path, config: dict[str, Any]) -> int:
    """A checkpoint of true headers and holes for tensors, in layer order as released ones are; returns the number of shards."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in sorted(tensor_shapes(config).items(), key=lambda item: [part.zfill(5) for part in item[0].split(".")]):
        if filled + 2 * math.prod(shape) > LIMIT:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * math.prod(shape)
    places = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shard.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
            places[name] = file.name
        raw = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(raw)) + raw)
        os.truncate(file, 8 + len(raw) + end)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return len(shards)


def test_235b_is_indexed_and_planned_from_its_headers(tmp_path: Path) -> None:
    """471 GB in over 100 shards, all of it holes: nothing but headers and the fingerprint's samples can have been read.

    Tensors and parameters are as many as the released Qwen3-VL-235B-A22B-Instruct has.
    """
    shards = write_sparse(tmp_path, config_235b_a22b())
    assert shards > 100
    checkpoint = Checkpoint.open(tmp_path, "Qwen3-VL-235B-A22B")
    assert len(checkpoint.shards) == shards and len(checkpoint.tensors) == 1388
    assert (checkpoint.parameters, checkpoint.total_bytes) == (235_670_022_896, 471_340_045_792)
    planned = plan_shards(checkpoint, tuple(layer for layer in range(94) if layer not in (10, 50, 92)), 5_000_000_000)
    assert sum(len(shard.tensors) for shard in planned) == 1388 - 3 * 11
    assert sum(shard.nbytes - len(shard.header) for shard in planned) == checkpoint.total_bytes - 3 * ONE_LAYER


def test_dry_run_of_235b(tmp_path: Path) -> None:
    """floor(0.25 x 92) = 23 layers; first, last and the three that receive DeepStack features stay. Memory does not follow the size."""
    (source := tmp_path / "Qwen3-VL-235B-A22B").mkdir()
    write_sparse(source, config_235b_a22b())
    arguments = ["convert", str(source), "--method", "random", "--budget", "0.25", "--dry-run", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(hf_layerprune.__file__).parents[1]), "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stderr.splitlines()[-1])
    assert measured["torch"] == [] and measured["peak"] < 100_000_000, measured
    plan = json.loads(done.stdout)["plan"]
    assert (len(plan["drop"]), len(plan["keep"])) == (23, 71)
    assert plan["protected"] == [0, 1, 2, 93] and not set(plan["protected"]) & set(plan["drop"])
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == [source.name]
