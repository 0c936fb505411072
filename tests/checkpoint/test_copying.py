"""Copying by byte ranges: joined where they touch, read ahead, hashed as they pass, written past the page cache."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import re
import threading
from pathlib import Path

import pytest

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.copying import HashedFile, copy_file, joined, read_blocks
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.page_cache import is_cached
from hf_layerprune.checkpoint.remedies import to_write
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.poor_file_system import grants_direct, refuse_if_direct, refusing

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
    for name, value in (("READ_BYTES", 70), ("BLOCK_BYTES", 100), ("BLOCKS", 3), ("DECIDED_BYTES", 300)):
        monkeypatch.setattr(copying, name, value)
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    record = copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (record.bytes, record.sha256) == (size, hashlib.sha256(content).hexdigest())


def test_all_that_is_read_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "READ_BYTES", 100)
    monkeypatch.setattr(copying, "DECIDED_BYTES", 300)
    monkeypatch.setattr(copying, "DIRECT", 0)
    announced: list[tuple[int, int]] = []
    monkeypatch.setattr(copying, "_read_ahead", lambda handle, begin, end: announced.append((begin, end)))
    (tmp_path / "file").write_bytes(bytes(2000))
    reached = 50
    for block in read_blocks(tmp_path / "file", 50, 1780):
        reached += len(block)
        assert announced[-1][1] >= reached
    assert announced == [(begin, min(begin + 300, 1780)) for begin in range(50, 1780, 300)]


def test_advice_that_the_system_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fadvise", refusing(errno.EINVAL), raising=False)
    (tmp_path / "source").write_bytes(b"content")
    assert copy_file(tmp_path / "source", tmp_path / "copy").bytes == 7


# --- past the page cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(1,), (4096,), (4095, 1), (4096, 4096), (5000, 70, 9000), (100,) * 200], ids=str)
def test_full_blocks_are_written_past_the_cache_and_the_rest_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, ...]
) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    writes = recorded_writes(monkeypatch)
    content = os.urandom(sum(pieces))
    rest = memoryview(content)
    with HashedFile(tmp_path / "file") as file:
        for size in pieces:
            file.write(rest[:size])
            rest = rest[size:]
    full, left = divmod(len(content), 4096)
    assert writes == [(4096, grants_direct(tmp_path))] * full + [(left, False)] * bool(left)
    assert (tmp_path / "file").read_bytes() == content
    assert file.record.bytes == len(content) and file.record.sha256 == hashlib.sha256(content).hexdigest()


def recorded_writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """The size of every os.write from now on, and whether it went past the cache as the system says of the open file."""
    writes: list[tuple[int, bool]] = []
    write = os.write

    def recorded(handle: int, block: memoryview) -> int:
        writes.append((len(block), bool(fcntl.fcntl(handle, fcntl.F_GETFL) & copying.DIRECT)))
        return write(handle, block)

    monkeypatch.setattr(os, "write", recorded)
    return writes


@pytest.mark.parametrize("begin", [0, 1, 64, 4095, 4096, 4097, 10_000])
@pytest.mark.parametrize("end", [10_001, 12_288, 20_000, 30_001])
def test_any_range_is_read_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int, end: int) -> None:
    monkeypatch.setattr(copying, "READ_BYTES", 5000)
    content = os.urandom(30_001)
    (tmp_path / "file").write_bytes(content)
    assert b"".join(map(bytes, read_blocks(tmp_path / "file", begin, end, past_cache=True))) == content[begin:end]


@pytest.mark.parametrize("lack", ["no such flag", "not granted", "granted and then refused"])
def test_a_system_without_direct_reading_and_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    grants = grants_direct(tmp_path)
    if lack == "no such flag":
        monkeypatch.setattr(copying, "DIRECT", 0)
    elif lack == "not granted":
        monkeypatch.setattr(fcntl, "fcntl", refusing(errno.EINVAL))
    else:
        granted = refuse_if_direct(monkeypatch, errno.EINVAL)
    content = os.urandom(10_000)
    (tmp_path / "source").write_bytes(content)
    record = copy_file(tmp_path / "source", tmp_path / "copy")
    assert b"".join(map(bytes, read_blocks(tmp_path / "copy", 0, 10_000, past_cache=True))) == content
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    if lack == "granted and then refused":
        assert bool(granted) == grants


def test_another_error_of_a_direct_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)

    monkeypatch.setattr(os, "write", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"), HashedFile(tmp_path / "file") as file:
        file.write(bytes(5000))


def test_what_is_cached_is_not_asked_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is not is not brought into the cache, where it would push out what somebody needs."""
    if not grants_direct(tmp_path):
        pytest.skip("this file system has no direct reading")
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr(copying, "READ_BYTES", 1 << 20)
    direct: list[int] = []
    read_direct = copying._read_direct
    monkeypatch.setattr(copying, "_read_direct", lambda *arguments: direct.append(arguments[2]) or read_direct(*arguments))
    assert b"".join(map(bytes, read_blocks(tmp_path / "file", 5, 3 << 20))) == content[5:] and not direct
    with (tmp_path / "file").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for _ in range(2):
        direct.clear()
        assert b"".join(map(bytes, read_blocks(tmp_path / "file", 5, 3 << 20))) == content[5:]
        assert direct == [5, 5 + (1 << 20), 5 + (2 << 20)]


def test_where_the_system_does_not_tell_what_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(10_000))
    with (tmp_path / "file").open("rb") as file:
        assert is_cached(file.fileno(), 4090, 4100)
        assert is_cached(file.fileno(), 0, 20_000)  # more than there is
        monkeypatch.setattr("hf_layerprune.checkpoint.page_cache._mincore", lambda: lambda *arguments: -1)
        assert is_cached(file.fileno(), 0, 10_000)
        monkeypatch.setattr("hf_layerprune.checkpoint.page_cache._mincore", lambda: None)
        assert is_cached(file.fileno(), 0, 10_000)


# --- reads and writes that give less than they were asked for --------------------------------------------------------------


@pytest.mark.parametrize("past_cache", [False, True], ids=["cache", "disk"])
@pytest.mark.parametrize("given", [1, 100, 512, 3000])
def test_short_reads_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int, past_cache: bool) -> None:
    """A read from byte 4,000 of the page that gives less than that, too, is no end of the file."""
    content = os.urandom(20_000)
    (tmp_path / "file").write_bytes(content)
    preadv = os.preadv

    def short(handle: int, memory: list[memoryview], begin: int, *flags: int) -> int:
        direct = fcntl.fcntl(handle, fcntl.F_GETFL) & copying.DIRECT and begin % 4096
        return refusing(errno.EINVAL)() if direct else preadv(handle, [memory[0][:given]], begin, *flags)

    monkeypatch.setattr(os, "preadv", short)
    monkeypatch.setattr(copying, "READ_BYTES", 5000)
    assert b"".join(map(bytes, read_blocks(tmp_path / "file", 4000, 19_000, past_cache=past_cache))) == content[4000:19_000]
    with pytest.raises(CheckpointError, match=r"ends at byte 20,000, expected 20,001: it changed while it was read"):
        list(read_blocks(tmp_path / "file", 4000, 20_001, past_cache=past_cache))


@pytest.mark.parametrize("code", sorted(copying.NOT_DIRECT), ids=errno.errorcode.get)
def test_whatever_refuses_direct_access_is_read_and_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    content = os.urandom(10_000)
    (tmp_path / "source").write_bytes(content)
    refuse_if_direct(monkeypatch, code)
    copy_file(tmp_path / "source", tmp_path / "copy")
    assert b"".join(map(bytes, read_blocks(tmp_path / "copy", 0, 10_000, past_cache=True))) == content


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


def test_the_memory_is_the_processes_own() -> None:
    """Shared memory would not count against a limit, and the tests of limits would prove nothing."""
    memory = copying._memory(1 << 20)
    memory[:] = b"x" * len(memory)
    smaps = Path("/proc/self/smaps").read_text()
    mapped = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    [line] = [one for one in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+)", smaps, re.M) if int(one[0], 16) <= mapped < int(one[1], 16)]
    assert line[2] == "rw-p"


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages to ask for")
@pytest.mark.parametrize("size", [4096, copying.HUGE_BYTES, copying.BLOCK_BYTES, copying.READ_BYTES + 2 * copying.PAGE_BYTES])
def test_what_is_large_is_asked_for_in_huge_pages(size: int) -> None:
    memory = copying._memory(size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert len(memory) == size and address % (2 << 20 if size >= 2 << 20 else 4096) == 0
    for span in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        begin, end = (int(part, 16) for part in span.split(" ", 1)[0].split("-"))
        if begin <= address < end:
            assert (" hg" in span) == (size >= 2 << 20)
            break
    else:
        pytest.fail("the memory is nowhere")
