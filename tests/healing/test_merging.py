"""Trained weights go back into the checkpoint: the right tensors, the right values, every other byte as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError, HealingError
from hf_layerprune.healing.weights import TrainedWeights, write_merged
from tests.checkpoint.independent import read_model
from tests.tiny_checkpoint import make_checkpoint
from tests.tiny_moe import moe_checkpoint

LAYER = "model.language_model.layers.{}."


def open_checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(path, path.name)


def bf16(content: bytes) -> np.ndarray:
    """bf16 is the upper half of an fp32."""
    return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)


def write(checkpoint: Checkpoint, trained: TrainedWeights, output: Path, **records: bytes) -> Manifest:
    return write_merged(checkpoint, trained, output, overwrite=False, records=records)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_adapters_are_added(tmp_path: Path, work: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny", shards=3)
    module = LAYER.format(2) + "mlp.up_proj"
    random = np.random.default_rng(0)
    down, up = random.normal(size=(4, 32)).astype(np.float32), random.normal(size=(48, 4)).astype(np.float32)
    save_file({f"{module}.lora_A.weight": torch.from_numpy(down), f"{module}.lora_B.weight": torch.from_numpy(up)}, work / "t.safetensors")
    manifest = write(open_checkpoint(source), TrainedWeights(work / "t.safetensors", 0.5), tmp_path / "out", healing=b"{}")

    before, after = read_model(source), read_model(tmp_path / "out")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [f"{module}.weight"] == list(manifest.changed)
    expected = bf16(before[f"{module}.weight"][2]).reshape(48, 32) + 0.5 * (up @ down)
    found = bf16(after[f"{module}.weight"][2]).reshape(48, 32)
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-8  # half a unit of bf16's eight bits
    assert after[f"{module}.weight"][:2] == before[f"{module}.weight"][:2]
    others = {"README.md", ".gitattributes"}  # the card of another model
    assert {p.name for p in source.iterdir()} - others == {p.name for p in (tmp_path / "out").iterdir()} - {"layerprune"}
    assert (tmp_path / "out" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert (tmp_path / "out" / "layerprune" / "healing").read_bytes() == b"{}"
    assert verify(tmp_path / "out").ok
    assert [p.name for p in work.iterdir()] == ["t.safetensors"]


def test_whole_layers_are_exchanged(tmp_path: Path, work: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny")
    name = LAYER.format(1) + "input_layernorm.weight"
    save_file({name: torch.full((32,), 1.5 + 2**-9)}, work / "t.safetensors")
    write(open_checkpoint(source), TrainedWeights(work / "t.safetensors", None), tmp_path / "out")
    before, after = read_model(source), read_model(tmp_path / "out")
    assert [n for n in before if before[n] != after[n]] == [name]
    assert set(bf16(after[name][2])) == {1.5}  # rounded to the even one of its neighbours in bf16


def test_experts_lie_as_the_checkpoint_has_them(tmp_path: Path, work: Path) -> None:
    source = moe_checkpoint(tmp_path / "moe")
    name = LAYER.format(0) + "mlp.experts.down_proj"
    experts = torch.arange(5 * 32 * 12).reshape(5, 32, 12).float() % 97  # output dimension first, as transformers holds them
    save_file({name: experts}, work / "t.safetensors")
    write(open_checkpoint(source), TrainedWeights(work / "t.safetensors", None), tmp_path / "out")
    dtype, shape, content = read_model(tmp_path / "out")[name]
    assert (dtype, shape) == ("BF16", (5, 12, 32))
    assert np.array_equal(bf16(content).reshape(shape), experts.numpy().transpose(0, 2, 1))


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"no.such.weight": torch.zeros(2)}, "'no.such.weight' is to be trained, but is missing"),
        ({LAYER.format(1) + "input_layernorm.weight": torch.zeros(31)}, r"trained with shape \(31,\), but the checkpoint has \(32,\)"),
    ],
)
def test_weights_of_another_model(tmp_path: Path, work: Path, tensors: dict[str, Any], message: str) -> None:
    source = make_checkpoint(tmp_path / "tiny")
    save_file(tensors, work / "t.safetensors")
    with pytest.raises(HealingError, match=message):
        write(open_checkpoint(source), TrainedWeights(work / "t.safetensors", None), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny", "work"] and [p.name for p in work.iterdir()] == ["t.safetensors"]


def test_an_output_that_exists(tmp_path: Path, work: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny")
    save_file({LAYER.format(1) + "input_layernorm.weight": torch.zeros(32)}, work / "t.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(CheckpointError, match="was not made by hf-layerprune"):
        write(open_checkpoint(source), TrainedWeights(work / "t.safetensors", None), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
