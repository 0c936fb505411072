"""Plans, names and sizes that a rewrite must refuse, and wrong bytes that it must find, leaving nothing behind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.errors import ArtifactError, CheckpointError, LayerPruneError, UsageError
from tests.checkpoint.independent import snapshot
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan


def refused(checkpoint: Checkpoint, plan: PruningPlan, tmp_path: Path, message: str, kind: type[LayerPruneError], **options: Any) -> None:
    before = snapshot(tmp_path)
    with pytest.raises(kind, match=message):
        rewrite(checkpoint, plan, tmp_path / "output", **options)
    assert snapshot(tmp_path) == before


def test_plan_of_another_checkpoint(opened: Checkpoint, tmp_path: Path) -> None:
    other = Checkpoint.open(make_checkpoint(tmp_path / "other", seed=1), "tiny")
    refused(opened, make_plan(other, (3,)), tmp_path, "another model or another revision", ArtifactError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "qwen3_vl_moe"}, "family is 'qwen3_vl_moe', but tiny has 'qwen3_vl'"),
        ({"keep": (0, 1, 2, 4, 5, 6), "scores": (None,) * 7}, "number of layers is 7, but tiny has 6"),
        ({"original_layers": (0, 1, 2, 3, 4, 9)}, "original_layers is .*, but tiny has None"),
    ],
)
def test_plan_edited_into_another_model(opened: Checkpoint, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(opened, replace(make_plan(opened, (3,)), **changes), tmp_path, message, ArtifactError)


def test_plan_that_leaves_too_few_layers(opened: Checkpoint, tmp_path: Path) -> None:
    refused(opened, make_plan(opened, (1, 2, 3, 4)), tmp_path, "keeps 2 of 6 layers; at least 3 must stay", ArtifactError)


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", "plan.json", "manifest.json", "source.json", "a\nb"])
def test_record_names(opened: Checkpoint, tmp_path: Path, name: str) -> None:
    refused(opened, make_plan(opened, (3,)), tmp_path, "record cannot be called", CheckpointError, records={name: b""})


@pytest.mark.parametrize(
    ("written", "size"),
    [(None, None), (7, 7), ("7", 7), ("7b", 7), ("5GB", 5_000_000_000), ("5 gib", 5_368_709_120), ("2KiB", 2048), ("3mb", 3_000_000)],
)
def test_shard_sizes(written: int | str | None, size: int | None) -> None:
    assert WriteOptions(max_shard_size=written).shard_bytes == size


@pytest.mark.parametrize("written", ["", "GB", "1.5GB", "-1", 0, -3, "0", "0MB", "5TB", "٥GB", "5 G B", True])
def test_no_shard_sizes(written: int | str) -> None:
    with pytest.raises(UsageError, match="expected a whole number of bytes, or of a unit") as caught:
        WriteOptions(max_shard_size=written)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="leave out --max-shard-size"):
        WriteOptions(max_shard_size=7, stream=True)


def test_source_that_shrinks_while_it_is_read(opened: Checkpoint, tmp_path: Path) -> None:
    path = opened.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(opened, make_plan(opened, (3,)), tmp_path, "it changed while it was read", CheckpointError)


def test_a_wrong_byte_is_found_before_the_folder_appears(opened: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying.os, "write", flipping(copying.os.write))
    refused(opened, make_plan(opened, (3,)), tmp_path, "not written as planned: tensor '.*' is not the source's", CheckpointError)


def flipping(write: Any) -> Any:
    """os.write, but the last bit of a file that has tensors is flipped."""

    def flipped(handle: int, block: memoryview) -> int:
        weights = os.readlink(f"/proc/self/fd/{handle}").endswith(".safetensors")
        return int(write(handle, bytes(block[:-1]) + bytes([block[-1] ^ 1]) if weights else block))

    return flipped
