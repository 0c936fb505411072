"""Move bytes: block by block, hashed in a second thread and taken up by the disk on the way, durable once the file is closed."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import cast

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.layout import NewShard
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.checkpoint.writeback import start_writeback
from hf_layerprune.errors import CheckpointError

BLOCK_BYTES = 512 << 10
QUEUED_BLOCKS = 16  # how far writing may run ahead of hashing, which evens out their stalls: this bounds the memory
WRITEBACK_BYTES = 16 << 20  # how much is written before the disk is set to work on it
AHEAD_BYTES = 16 << 20  # how far the disk is asked to read ahead of us: by itself Linux looks 128 KiB ahead

Progress = Callable[[int], None]
Block = bytes | memoryview


class HashedFile:
    """A new file that is hashed while it is written; both let other threads run, so hashing costs little time.

    Leaving the `with` block makes the file durable; `record` then holds its size and sha256. OSError as the system raises it.
    """

    record: FileRecord

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._started = 0  # bytes written, and those that the disk was set to work on
        self._digest = hashlib.sha256()
        # SimpleQueue, and no bounded Queue: an interrupt that arrives within Queue.put can leave its lock held for ever.
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._unmade = QUEUED_BLOCKS
        self._hasher = threading.Thread(target=self._hash, daemon=True)

    def buffer(self) -> bytearray:
        """Memory for a block to be written, as soon as the hashing is done with it: new memory for each would cost more than the copy."""
        if self._unmade and self._free.empty():
            self._unmade -= 1
            return bytearray(BLOCK_BYTES)
        return self._free.get()

    def write(self, block: Block) -> None:
        """Append bytes, or a view of a `buffer`, which is handed out again once they are hashed."""
        self._blocks.put(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        self._size += len(block)
        if self._size - self._started >= WRITEBACK_BYTES:
            start_writeback(self._handle, self._started, self._size)
            self._started = self._size

    def _hash(self) -> None:
        while (block := self._blocks.get()) is not None:
            self._digest.update(block)
            if isinstance(block, memoryview):
                self._free.put(block.obj)  # type: ignore[arg-type]  # a view of one of the buffers

    def __enter__(self) -> HashedFile:
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._hasher.start()
        except BaseException:  # an interrupt, or no thread to be had
            os.close(self._handle)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._blocks.put(None)
            self._hasher.join()
            if error is None:
                os.fsync(self._handle)
                self.record = FileRecord(self._size, self._digest.hexdigest())
        finally:
            os.close(self._handle)


def read_blocks(path: Path, begin: int, end: int, buffer: Callable[[], bytearray] | None = None) -> Iterator[memoryview]:
    """The bytes of a file from `begin` to before `end`, in blocks; CheckpointError naming the file if they cannot all be read.

    buffer: gives the memory for each block; by default all use the same, so that a block is gone when the next is asked for.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            shared = bytearray(0 if buffer else min(BLOCK_BYTES, end - begin))
            announced = begin
            while begin < end:
                if announced < end and announced - begin < AHEAD_BYTES // 2:
                    _read_ahead(handle, announced, min(announced + AHEAD_BYTES, end))
                    announced += AHEAD_BYTES
                block = memoryview(buffer() if buffer else shared)[: end - begin]
                count = os.preadv(handle, [block], begin)
                if not count:
                    raise CheckpointError(f"{path}: ends at byte {begin:,}, expected {end:,}: it changed while it was read. Start again.")
                yield block[:count]
                begin += count
        finally:
            os.close(handle)
    except OSError as error:
        raise CheckpointError(f"{path}: reading failed at byte {begin:,}: {error.strerror}. {to_read(error)}") from error


def _read_ahead(handle: int, begin: int, end: int) -> None:
    """Let the disk begin to read a file's bytes into the cache; where the system cannot, nothing happens."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.posix_fadvise(handle, begin, end - begin, os.POSIX_FADV_WILLNEED)


def same_blocks(one: Iterator[memoryview], other: Iterator[memoryview]) -> bool:
    """Whether what `read_blocks` gives for two ranges of one length is the same.

    Views compare item by item; the bytearrays below them, at whose beginning each block lies, compare their memory at once.
    """
    return all(cast(bytearray, a.obj).startswith(b) and len(a) == len(b) for a, b in zip(one, other, strict=True))


def write_shard(path: Path, shard: NewShard, progress: Progress | None = None) -> FileRecord:
    """Write a weight file by copying its tensors' bytes from their sources; `progress` is told how many, block by block."""
    with HashedFile(path) as file:
        file.write(shard.header)
        for place in joined(shard.tensors.values()):
            for block in read_blocks(*place, file.buffer):
                file.write(block)
                if progress:
                    progress(len(block))
    return file.record


def joined(spans: Iterable[TensorSpan]) -> Iterator[tuple[Path, int, int]]:
    """File, begin and end of what these tensors, in this order, cover; neighbours in a file are one range: fewer, fuller blocks."""
    run: tuple[Path, int, int] | None = None
    for span in spans:
        if run and run[0] == span.file and run[2] == span.begin:
            run = (*run[:2], span.end)
        elif span.nbytes:
            if run:
                yield run
            run = (span.file, span.begin, span.end)
    if run:
        yield run


def copy_file(source: Path, path: Path) -> FileRecord:
    """Copy a file's bytes, and nothing else of it (no mode, no times, no link)."""
    with HashedFile(path) as file:
        for block in read_blocks(source, 0, source.stat().st_size, file.buffer):
            file.write(block)
    return file.record


def write_file(path: Path, content: bytes) -> FileRecord:
    """Write a new file of known content."""
    with HashedFile(path) as file:
        file.write(content)
    return file.record


def hash_file(path: Path) -> FileRecord:
    """The size and sha256 of a file."""
    digest, size = hashlib.sha256(), 0
    for block in read_blocks(path, 0, path.stat().st_size):
        digest.update(block)
        size += len(block)
    return FileRecord(size, digest.hexdigest())
