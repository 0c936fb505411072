"""Move bytes: block by block, hashed in a second thread on the way, on the disk once the file is closed."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import cast

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.layout import NewShard
from hf_layerprune.errors import CheckpointError

BLOCK_BYTES = 512 << 10
QUEUED_BLOCKS = 4  # how far writing may run ahead of hashing: this bounds the memory

Progress = Callable[[int], None]
Block = bytes | memoryview


class HashedFile:
    """A new file that is hashed while it is written; both let other threads run, so hashing costs little time.

    Leaving the `with` block makes the file durable; `record` then holds its size and sha256. OSError as the system raises it.
    """

    record: FileRecord

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._digest = hashlib.sha256()
        # SimpleQueue, and no bounded Queue: an interrupt that arrives within Queue.put can leave its lock held for ever.
        self._blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(QUEUED_BLOCKS):
            self._free.put(bytearray(BLOCK_BYTES))
        self._hasher = threading.Thread(target=self._hash, daemon=True)

    def buffer(self) -> bytearray:
        """Memory for a block to be written, as soon as the hashing is done with it: new memory for each would cost more than the copy."""
        return self._free.get()

    def write(self, block: Block) -> None:
        """Append bytes, or a view of a `buffer`, which is handed out again once they are hashed."""
        self._blocks.put(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        self._size += len(block)

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
            while begin < end:
                block = memoryview(buffer() if buffer else shared)[: end - begin]
                count = os.preadv(handle, [block], begin)
                if not count:
                    raise CheckpointError(f"{path}: ends at byte {begin:,}, expected {end:,}: it changed while it was read. Start again.")
                yield block[:count]
                begin += count
        finally:
            os.close(handle)
    except OSError as error:
        raise CheckpointError(f"{path}: reading failed at byte {begin:,}: {error.strerror}. Check the disk.") from error


def same_blocks(one: Iterator[memoryview], other: Iterator[memoryview]) -> bool:
    """Whether what `read_blocks` gives for two ranges of one length is the same.

    Views compare item by item; the bytearrays below them, at whose beginning each block lies, compare their memory at once.
    """
    return all(cast(bytearray, a.obj).startswith(b) and len(a) == len(b) for a, b in zip(one, other, strict=True))


def write_shard(path: Path, shard: NewShard, progress: Progress | None = None) -> FileRecord:
    """Write a weight file by copying its tensors' bytes from their sources; `progress` is told how many, block by block."""
    with HashedFile(path) as file:
        file.write(shard.header)
        for span in shard.tensors.values():
            for block in read_blocks(span.file, span.begin, span.end, file.buffer):
                file.write(block)
                if progress:
                    progress(len(block))
    return file.record


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
