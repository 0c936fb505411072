"""The fingerprint, worked out anew from its definition, and what changes it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import LocalShards, fingerprint
from tests.tiny_checkpoint import make_checkpoint


def by_definition(folder: Path) -> str:
    config = json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True, separators=(",", ":"))
    parts = [config.encode()]
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        data = content[8 + length :]
        parts.append(content[8 : 8 + length])
        parts += [data[at : at + 65536] for at in (0, len(data) // 3, 2 * len(data) // 3, max(0, len(data) - 65536))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("shards", [1, 3])
def test_definition(tmp_path: Path, shards: int) -> None:
    folder = make_checkpoint(tmp_path / "source", shards=shards)
    assert Checkpoint.open(folder, "x").source.fingerprint == by_definition(folder)


@pytest.mark.parametrize("size", [0, 1, 2, 65535, 65536, 65537, 98304, 196608, 1_000_003])
def test_blocks_of_data_of_any_length(tmp_path: Path, size: int) -> None:
    raw = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + os.urandom(size))
    (tmp_path / "config.json").write_text('{"b": 1, "a": "ä"}')
    header = {"model.safetensors": read_header(tmp_path / "model.safetensors")}
    assert fingerprint({"a": "ä", "b": 1}, header, LocalShards(tmp_path)) == by_definition(tmp_path)


def test_two_fine_tunings_differ_and_a_copy_does_not(tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    folders.append(make_checkpoint(tmp_path / "copy", seed=0))
    first, second, copy = (Checkpoint.open(folder, folder.name).source.fingerprint for folder in folders)
    assert first != second and first == copy


def test_layout_of_the_config_does_not_count(source: Path) -> None:
    before = Checkpoint.open(source, "x").source.fingerprint
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert Checkpoint.open(source, "x").source.fingerprint == before
    (source / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    assert Checkpoint.open(source, "x").source.fingerprint != before
