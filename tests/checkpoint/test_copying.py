"""Copying by byte ranges: joined where they touch, hashed as they pass, durable at the end."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import threading
from pathlib import Path

import pytest

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.copying import HashedFile, copy_file
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.layout import joined
from hf_layerprune.checkpoint.remedies import to_write

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
    for name, value in (("BLOCK_BYTES", 100), ("BLOCKS", 3)):
        monkeypatch.setattr(copying, name, value)
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    record = copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (record.bytes, record.sha256) == (size, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("pieces", [(1,), (4096,), (4095, 1), (4096, 4096), (5000, 70, 9000), (100,) * 200], ids=str)
@pytest.mark.parametrize("refused", [None, *sorted(copying.NOT_DIRECT)], ids=str)
def test_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, ...], refused: int | None) -> None:
    """Also where the file system grants direct writing, and then refuses every such write."""
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    write, direct = os.write, []

    def poor(handle: int, block: memoryview) -> int:
        direct.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & copying.DIRECT))
        if refused and direct[-1]:
            raise OSError(refused, os.strerror(refused))
        return write(handle, block)

    monkeypatch.setattr(os, "write", poor)
    content = os.urandom(sum(pieces))
    rest = memoryview(content)
    with HashedFile(tmp_path / "file") as file:
        for size in pieces:
            file.write(rest[:size])
            rest = rest[size:]
    assert (tmp_path / "file").read_bytes() == content
    assert file.record.bytes == len(content) and file.record.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("at", [1, 2, 8])
def test_hashing_that_fails_is_told_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    calls = itertools.count(1)

    class Failing:
        def update(self, block: memoryview) -> None:
            if next(calls) == at:
                raise MemoryError

    with pytest.raises(MemoryError), HashedFile(tmp_path / "file") as file:
        file._digest = Failing()  # type: ignore[assignment]
        file.write(bytes(4096 * 8))
    assert not hasattr(file, "record")


def test_no_thread_to_be_had_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    with pytest.raises(OSError, match="can't start new thread") as raised, HashedFile(tmp_path / "file") as file:
        file.write(bytes(5000))
    assert to_write(raised.value) == "Close other programs or raise the limit of processes (ulimit -u)."
