"""Copying by byte ranges: joined where they touch, read ahead and written back on the way, hashed as they pass."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import copying, writeback
from hf_layerprune.checkpoint.copying import HashedFile, copy_file, joined, read_blocks
from hf_layerprune.checkpoint.header import TensorSpan

ONE, OTHER = Path("one"), Path("other")
RUNS: dict[str, tuple[list[tuple[Path, int, int]], list[tuple[Path, int, int]]]] = {
    "none": ([], []),
    "neighbours": ([(ONE, 8, 10), (ONE, 10, 14), (ONE, 14, 15)], [(ONE, 8, 15)]),
    "a gap": ([(ONE, 8, 10), (ONE, 11, 14)], [(ONE, 8, 10), (ONE, 11, 14)]),
    "backwards": ([(ONE, 10, 14), (ONE, 8, 10)], [(ONE, 10, 14), (ONE, 8, 10)]),
    "another file": ([(ONE, 8, 10), (OTHER, 10, 14)], [(ONE, 8, 10), (OTHER, 10, 14)]),
    "empty tensors": ([(ONE, 3, 3), (ONE, 8, 10), (OTHER, 8, 8), (ONE, 10, 12), (ONE, 12, 12)], [(ONE, 8, 12)]),
}


@pytest.mark.parametrize(("spans", "expected"), RUNS.values(), ids=RUNS)
def test_joined(spans: list[tuple[Path, int, int]], expected: list[tuple[Path, int, int]]) -> None:
    assert list(joined(TensorSpan(file, "U8", (end - begin,), begin, end) for file, begin, end in spans)) == expected


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000, 4321])
def test_any_size_against_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for name, value in (("BLOCK_BYTES", 100), ("QUEUED_BLOCKS", 3), ("WRITEBACK_BYTES", 250), ("AHEAD_BYTES", 300)):
        monkeypatch.setattr(copying, name, value)
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    record = copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (record.bytes, record.sha256) == (size, hashlib.sha256(content).hexdigest())


def test_all_that_is_read_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 100)
    monkeypatch.setattr(copying, "AHEAD_BYTES", 300)
    announced: list[tuple[int, int]] = []
    monkeypatch.setattr(copying, "_read_ahead", lambda handle, begin, end: announced.append((begin, end)))
    (tmp_path / "file").write_bytes(bytes(2000))
    reached = 50
    for block in read_blocks(tmp_path / "file", 50, 1780):
        assert announced[-1][1] >= min(reached + 150, 1780)
        reached += len(block)
    assert announced == [(begin, min(begin + 300, 1780)) for begin in range(50, 1780, 300)]


def test_writing_back_begins_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranges follow each other without a gap; what is left at the end is the fsync's."""
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(copying, "WRITEBACK_BYTES", 1000)
    monkeypatch.setattr(copying, "start_writeback", lambda handle, begin, end: ranges.append((begin, end)))
    with HashedFile(tmp_path / "file") as file:
        for size in (10, 999, 1, 2500, 20):
            file.write(bytes(size))
    assert ranges == [(0, 1009), (1009, 3510)] and file.record.bytes == 3530


def test_advice_that_the_system_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    monkeypatch.setattr(writeback, "_sync_file_range", lambda: lambda *arguments: -1)
    monkeypatch.setattr(copying, "WRITEBACK_BYTES", 1)
    (tmp_path / "source").write_bytes(b"content")
    assert copy_file(tmp_path / "source", tmp_path / "copy").bytes == 7


def test_no_more_memory_than_the_blocks_that_are_needed(tmp_path: Path) -> None:
    """A small file needs one block, not all that a large one may have on the way."""
    (tmp_path / "source").write_bytes(b"x" * 10)
    made: list[int] = []
    with HashedFile(tmp_path / "copy") as file:
        for block in read_blocks(tmp_path / "source", 0, 10, lambda: made.append(1) or file.buffer()):
            file.write(block)
    assert len(made) == 1
