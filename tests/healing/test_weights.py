"""Trained weights go back into the checkpoint: the right tensors, the right values, every other byte as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError, HealingError
from hf_layerprune.healing.weights import TrainedWeights, write_merged
from tests.checkpoint.independent import read_model
from tests.tiny_checkpoint import make_checkpoint
from tests.tiny_moe import moe_checkpoint

LAYER = "model.language_model.layers.{}."
NORM = LAYER.format(1) + "input_layernorm.weight"


def bf16(content: bytes) -> np.ndarray:
    """bf16 is the upper half of an fp32."""
    return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)


def write(source: Path, tensors: dict[str, Tensor], scale: float | None = None, **records: bytes) -> Manifest:
    """Into `out` beside the source; nothing but the trained weights is left in `work`."""
    place = source.parent / "work" / "trained.safetensors"
    place.parent.mkdir()
    save_file(tensors, place)
    try:
        output = source.parent / "out"
        return write_merged(Checkpoint.open(source, source.name), TrainedWeights(place, scale), output, overwrite=False, records=records)
    finally:
        assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_adapters_are_added(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny", shards=3)
    module = LAYER.format(2) + "mlp.up_proj"
    random = np.random.default_rng(0)
    down, up = random.normal(size=(4, 32)).astype(np.float32), random.normal(size=(48, 4)).astype(np.float32)
    adapter = {f"{module}.lora_A.weight": torch.from_numpy(down), f"{module}.lora_B.weight": torch.from_numpy(up)}
    manifest = write(source, adapter, 0.5, healing=b"{}")

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
    assert (tmp_path / "out" / "layerprune" / "healing").read_bytes() == b"{}" and verify(tmp_path / "out").ok


def test_whole_tensors_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny")
    write(source, {NORM: torch.full((32,), 1.5 + 2**-9)})
    before, after = read_model(source), read_model(tmp_path / "out")
    assert [name for name in before if before[name] != after[name]] == [NORM]
    assert set(bf16(after[NORM][2])) == {1.5}  # rounded to the even one of its neighbours in bf16


def test_experts_lie_as_the_checkpoint_has_them(tmp_path: Path) -> None:
    name = LAYER.format(0) + "mlp.experts.down_proj"
    experts = torch.arange(5 * 32 * 12).reshape(5, 32, 12).float() % 97  # output dimension first, as transformers holds them
    write(moe_checkpoint(tmp_path / "moe"), {name: experts})
    dtype, shape, content = read_model(tmp_path / "out")[name]
    assert (dtype, shape) == ("BF16", (5, 12, 32))
    assert np.array_equal(bf16(content).reshape(shape), experts.numpy().transpose(0, 2, 1))


def test_refusals(tmp_path: Path) -> None:
    for number, (tensors, error, message) in enumerate(
        (
            ({"no.such.weight": torch.zeros(2)}, HealingError, "'no.such.weight' is to be trained, but is missing"),
            ({NORM: torch.zeros(31)}, HealingError, r"trained with shape \(31,\), but the checkpoint has \(32,\)"),
            ({NORM: torch.full((32,), torch.inf)}, HealingError, "training left non-finite values in it"),
            ({NORM: torch.zeros(32)}, CheckpointError, "was not made by hf-layerprune"),
        )
    ):
        place = tmp_path / str(number)
        source = make_checkpoint(place / "tiny")
        if error is CheckpointError:
            (place / "out").mkdir()
            (place / "out" / "mine").touch()
        before = sorted(place.rglob("*"))
        with pytest.raises(error, match=message):
            write(source, tensors)
        assert [path for path in sorted(place.rglob("*")) if "work" not in path.parts] == before
