"""Reads and writes that do less than they were asked to, as any system call may: the right bytes and sha256 come out."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.copying import HashedFile, copy_file, read_blocks
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import pruned, read_model
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

PAGE = 4096
# How many bytes a call does at most: single ones, sectors, pages, and what is no whole number of any.
COUNTS = st.lists(st.sampled_from([1, 2, 511, 512, 1000, 4095, 4096, 8192]) | st.integers(1, 10_000), max_size=40)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def small_blocks() -> Iterator[pytest.MonkeyPatch]:
    """Blocks of one page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "BLOCK_BYTES", PAGE)
        yield patch


def short_writes(patch: pytest.MonkeyPatch, counts: Iterator[int]) -> list[int]:
    """From now on a write does as much as the next of `counts` says, and all once they have run out. Returns, to be filled, the counts
    of those that were cut short."""
    write, cut = os.write, list[int]()

    def call(handle: int, block: Any) -> int:
        count = min(next(counts, len(block)), len(block))
        if count < len(block):
            cut.append(count)
        return write(handle, block[:count])

    patch.setattr(os, "write", call)
    return cut


def short_reads(patch: pytest.MonkeyPatch, counts: Iterator[int]) -> list[int]:
    """As `short_writes`, for reads: what lies in the memory behind the bytes that were read is not theirs."""
    preadv, cut = os.preadv, list[int]()

    def call(handle: int, buffers: list[Any], place: int, *flags: int) -> int:
        found = preadv(handle, buffers, place, *flags)
        count = min(next(counts, found), found)
        if count < found:
            cut.append(count)
            memory = memoryview(buffers[0])
            memory[count:] = b"\xaa" * (len(memory) - count)
        return count

    patch.setattr(os, "preadv", call)
    return cut


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@QUICK
@given(counts=COUNTS, pieces=st.lists(st.integers(0, 12_000), max_size=4), seed=st.integers(0, 99))
def test_short_writes(tmp_path_factory: pytest.TempPathFactory, counts: list[int], pieces: list[int], seed: int) -> None:
    path = tmp_path_factory.mktemp("short") / "file"
    parts = [random.Random(seed + number).randbytes(size) for number, size in enumerate(pieces)]
    with small_blocks() as patch:
        short_writes(patch, iter(counts))
        with HashedFile(path) as file:
            for part in parts:
                file.write(part)
    content = b"".join(parts)
    assert path.read_bytes() == content
    assert (file.record.bytes, file.record.sha256) == (len(content), sha256(content))


@QUICK
@given(counts=COUNTS, size=st.integers(0, 30_000), seed=st.integers(0, 99), data=st.data())
def test_short_reads(tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int, seed: int, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("short") / "file"
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    begin = data.draw(st.integers(0, size))
    end = data.draw(st.integers(begin, size))
    with small_blocks() as patch:
        short_reads(patch, iter(counts))
        assert b"".join(map(bytes, read_blocks(path, begin, end))) == content[begin:end]


@QUICK
@given(reads=COUNTS, writes=COUNTS, size=st.integers(0, 30_000))
def test_a_copy_of_short_reads_and_writes(tmp_path_factory: pytest.TempPathFactory, reads: list[int], writes: list[int], size: int) -> None:
    folder = tmp_path_factory.mktemp("short")
    content = random.Random(size).randbytes(size)
    (folder / "source").write_bytes(content)
    with small_blocks() as patch:
        short_reads(patch, iter(reads))
        short_writes(patch, iter(writes))
        record = copy_file(folder / "source", folder / "copy")
    assert (folder / "copy").read_bytes() == content and record.sha256 == sha256(content) and record.bytes == size


@pytest.mark.parametrize("count", [1, 63, 512, 4095])
@pytest.mark.parametrize("gone", [1, 500, 5000, 20_000])
def test_a_file_that_got_shorter_is_still_noticed(tmp_path: Path, count: int, gone: int) -> None:
    (tmp_path / "file").write_bytes(bytes(20_000 - gone))
    with small_blocks() as patch, pytest.raises(CheckpointError, match=r"file: ends at byte [\d,]+, expected 20,000: it changed"):
        short_reads(patch, iter([count] * 9))
        list(read_blocks(tmp_path / "file", 0, 20_000))


def one_byte(total: int) -> Iterator[int]:
    return iter([1] * total)


def now_and_then(total: int) -> Iterator[int]:
    """Every third call does a part of its work, of any length."""
    rng = random.Random(total)
    return iter([rng.randint(1, 5000) if number % 3 == 0 else 1 << 30 for number in range(total)])


@pytest.mark.parametrize("counts", [one_byte, now_and_then], ids=lambda counts: counts.__name__)
def test_a_whole_rewrite(tmp_path: Path, counts: Callable[[int], Iterator[int]]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source", layers=4, shards=2), "tiny")
    with small_blocks() as patch:
        read, written = short_reads(patch, counts(300)), short_writes(patch, counts(300))
        rewrite(checkpoint, make_plan(checkpoint, (1,)), tmp_path / "output")
    assert len(read) > 5 and len(written) > 5
    assert read_model(tmp_path / "output") == pruned(read_model(checkpoint.path), [0, 2, 3])
    assert verify(tmp_path / "output", checkpoint).ok
