from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from tests.tiny_checkpoint import make_checkpoint, write_safetensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny checkpoint in one file, 6 layers, tied."""
    return make_checkpoint(tmp_path / "source")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tiny checkpoint in three shards, 6 layers, untied."""
    return make_checkpoint(tmp_path / "sharded", tied=False, shards=3)


@pytest.fixture
def opened(source: Path) -> Checkpoint:
    return Checkpoint.open(source, "tiny")


@pytest.fixture
def rewritten_weights(source: Path) -> Callable[..., Path]:
    """A function that writes the source's only weight file anew from other tensors."""

    def write(tensors: dict) -> Path:
        write_safetensors(source / "model.safetensors", tensors)
        return source

    return write


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A folder that is read."""
    (tmp_path / "origin" / "inner").mkdir(parents=True)
    return tmp_path / "origin"
