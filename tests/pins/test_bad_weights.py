"""Rows of BAD_INPUT.md on weight files and their index: exit code 1, one line, and a file system that is as it was."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pins.commands import CONVERT, check_refused
from tests.pins.static_checkpoint import (
    LAYERS,
    WEIGHTS,
    Tensors,
    dense_config,
    dense_shapes,
    in_shards,
    make_tensors,
    write_checkpoint,
    write_safetensors,
)

Spoil = Callable[[Path], object]
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
UP = f"{LAYERS}3.mlp.up_proj.weight"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """One in three shards, not tied, in the same place."""
    shapes = dense_shapes(tied=False)
    return write_checkpoint(tmp_path / "here/source", dense_config(tied=False), make_tensors(shapes), in_shards(shapes, 3))


# --- headers --------------------------------------------------------------------------------------------------------------


def raw(header: Any, data: bytes = b"1234", length: int | None = None) -> bytes:
    """A safetensors file whose header is this."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor(begin: Any = 0, end: Any = 4, shape: Any = (2,), dtype: Any = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FILES: dict[str, bytes] = {
    **{f"header length {length}": raw({"a": tensor()}, length=length) for length in (0, 1000, 100_000_001, 2**64 - 1)},
    "header not JSON": raw(b"{nonsense}"),
    "header not UTF-8": raw(b'{"\xff": 1}'),
    "header a list": raw(b"[]"),
    "header with duplicate keys": raw(b'{"a": {}, "a": {}}'),
    "header nested 10,000 deep": raw(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "offsets overlapping": raw({"a": tensor(0, 4), "b": tensor(2, 6)}),
    "offsets with a hole": raw({"a": tensor(0, 4), "b": tensor(6, 10)}, b"1234567890"),
    "offsets beyond the file": raw({"a": tensor(0, 2**40, (2**39,))}),
    "offsets reversed": raw({"a": tensor(4, 0)}),
    "offsets negative": raw({"a": tensor(-4, 0)}),
    "offsets 2^63": raw({"a": tensor(0, 2**63)}),
    "offsets floats": raw({"a": tensor(0.0, 4.0)}),
    "size that does not fit": raw({"a": tensor(0, 4, (3,))}),
    "shape that overflows": raw({"a": tensor(0, 4, (2**40, 2**40))}),
    "unknown dtype": raw({"a": tensor(dtype="C128")}),
    "metadata not strings": raw({"__metadata__": {"format": 1}, "a": tensor()}),
    "metadata huge": raw({"__metadata__": {"k": "x" * (1 << 20)}, "a": tensor()}),
    "bytes after the last tensor": raw({"a": tensor()}, b"12345"),
    "an empty file": b"",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_weight_files(source: Path, content: bytes) -> None:
    (source / WEIGHTS).write_bytes(content)
    check_refused(source.parent, *CONVERT)


# --- shards and index -----------------------------------------------------------------------------------------------------


def cut(path: Path, size: int) -> None:
    """Shorten a file: to that size, or by that many bytes."""
    os.truncate(path, size if size > 0 else path.stat().st_size + size)


def instead(make: Spoil) -> Spoil:
    """Something else in the place of the second shard."""
    return lambda folder: ((folder / SECOND).unlink(), make(folder / SECOND))


def mapped(place: Any, name: str = UP) -> Spoil:
    """Another place of one tensor in the index; None takes it out."""

    def spoil(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][name] = place
        if place is None:
            del index["weight_map"][name]
        (folder / INDEX).write_text(json.dumps(index))

    return spoil


def renamed(folder: Path) -> None:
    """Two shards whose names differ only in case, in the index."""
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace(SECOND, FIRST.upper()))


def twice(folder: Path) -> None:
    """One tensor of the second shard in the first too, with other values."""
    shapes = dense_shapes(tied=False)
    first, second, _ = in_shards(shapes, 3)
    tensors = make_tensors(shapes)
    write_safetensors(folder / FIRST, {name: tensors[name] for name in first} | {second[0]: tensors[second[0]] + 1})


def single_file_beside(folder: Path) -> None:
    write_safetensors(folder / WEIGHTS, make_tensors(dense_shapes(tied=False)))
    (folder / SECOND).unlink()


SHARDS: dict[str, Spoil] = {
    "truncated in the header": lambda folder: cut(folder / SECOND, 20),
    "truncated in the data": lambda folder: cut(folder / SECOND, -5000),
    "truncated by a byte": lambda folder: cut(folder / SECOND, -1),
    "missing": instead(lambda path: None),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a dangling link": instead(lambda path: path.symlink_to("absent")),
    "a link out": instead(lambda path: path.symlink_to("/etc/passwd")),
    **{
        f"mapped to {place!r}": mapped(place)
        for place in ("/etc/passwd", "../x.safetensors", "a/../../x", "x\0y", "a\\b", "C:x.safetensors", "", 7)
    },
    "names that differ in case": renamed,
    "in the index only": mapped(FIRST, "ghost"),
    "in the shard only": mapped(None),
    "in two shards": twice,
    "incomplete beside a single file": single_file_beside,
    "no weight map": lambda folder: (folder / INDEX).write_text("{}"),
    "an index that is not JSON": lambda folder: (folder / INDEX).write_text("{"),
}


@pytest.mark.parametrize("spoil", SHARDS.values(), ids=SHARDS)
def test_shards(sharded: Path, spoil: Spoil) -> None:
    spoil(sharded)
    check_refused(sharded.parent, *CONVERT)


# --- tensors against the config ---------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in [*tensors] if name.startswith(names)]


def added(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.uint16)})


TENSORS: dict[str, Callable[[Tensors], object]] = {
    "layer 5 missing": without(f"{LAYERS}5."),
    "layer 2 missing": without(f"{LAYERS}2."),
    "a layer too many": added(f"{LAYERS}36.mlp.up_proj.weight", 40, 32),
    "a layer with a tensor fewer": without(UP),
    "a tensor of another shape": added(UP, 32, 40),
    "embedding missing": without("model.language_model.embed_tokens"),
    "one entry a layer": added("router_scales", 6, 2),
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors(source: Path, change: Callable[[Tensors], object]) -> None:
    tensors = make_tensors(dense_shapes())
    change(tensors)
    write_safetensors(source / WEIGHTS, tensors)
    check_refused(source.parent, *CONVERT)
