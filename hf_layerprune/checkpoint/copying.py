"""Move bytes: block by block, past the page cache where the system can, hashed in a second thread, durable once the file is closed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
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
from hf_layerprune.errors import CheckpointError

READ_BYTES = 512 << 10  # a read from the page cache: small enough to stay in the processor's own cache until it is copied on
BLOCK_BYTES = 4 << 20  # a write to the disk: large enough to keep it busy; whole pages
BLOCKS = 4  # how far writing may run ahead of hashing, which evens out their stalls: this bounds the memory
PAGE_BYTES = 4096  # what direct reading and writing is aligned to: no smaller than any disk's sector
AHEAD_BYTES = 16 << 20  # how far the disk is asked to read ahead of us: by itself Linux looks 128 KiB ahead
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has no such thing
# What a file system answers that grants direct reading and writing and then cannot do it, or not at this place and length.
NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}

Progress = Callable[[int], None]


class HashedFile:
    """A new file that is hashed while it is written; both let other threads run, so hashing costs little time.

    Full blocks go to the disk past the page cache (O_DIRECT): making new pages in the cache and writing them back takes more time than
    the disk, and pushes out of memory what somebody will want. Leaving the `with` block makes the file durable; `record` then holds
    its size and sha256. OSError as the system raises it.
    """

    record: FileRecord

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._filled = 0  # bytes in the file, and in the block that is being filled
        self._direct = False
        self._failed: BaseException | None = None  # what ended the hashing before its time
        self._digest = hashlib.sha256()
        # SimpleQueue, and no bounded Queue: an interrupt that arrives within Queue.put can leave its lock held for ever.
        self._blocks: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._unmade = BLOCKS
        self._block = self._next_block()
        self._hasher = threading.Thread(target=self._hash, daemon=True)

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes, which are copied: the memory may be used again at once."""
        rest = memoryview(content)
        while rest:
            if self._filled == BLOCK_BYTES:
                self._store()
                self._block, self._filled = self._next_block(), 0
            taken = rest[: BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled, rest = self._filled + len(taken), rest[len(taken) :]

    def _next_block(self) -> mmap.mmap:
        """Memory that begins at a page, as direct writing wants it, as soon as the hashing is done with one."""
        if self._unmade and self._free.empty():
            self._unmade -= 1
            return _memory(BLOCK_BYTES)
        return self._free.get()

    def _store(self) -> None:
        """Hand the block to the hashing and to the disk."""
        block = memoryview(self._block)[: self._filled]
        self._blocks.put(block)
        if self._direct != (full := len(block) == BLOCK_BYTES):
            self._direct = _past_cache(self._handle, full)
        rest = block
        while rest:
            try:
                rest = rest[os.write(self._handle, rest) :]
            except OSError as error:
                if error.errno not in NOT_DIRECT or not self._direct:
                    raise
                self._direct = _past_cache(self._handle, False)
        self._size += len(block)

    def _hash(self) -> None:
        while (block := self._blocks.get()) is not None:
            try:
                if self._failed is None:
                    self._digest.update(block)
            except BaseException as error:
                self._failed = error
            self._free.put(cast(mmap.mmap, block.obj))  # also then: the writing waits for it

    def __enter__(self) -> HashedFile:
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._hasher.start()
        except RuntimeError as error:
            os.close(self._handle)
            raise OSError(errno.EAGAIN, str(error)) from error
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            try:
                if error is None:
                    self._store()
            finally:
                self._blocks.put(None)
                self._hasher.join()
            if error is None:
                if self._failed:
                    raise self._failed
                os.fsync(self._handle)
                self.record = FileRecord(self._size, self._digest.hexdigest())
        finally:
            os.close(self._handle)


def read_blocks(path: Path, begin: int, end: int, *, past_cache: bool = False) -> Iterator[memoryview]:
    """The bytes of a file from `begin` to before `end`, in blocks, each gone when the next is asked for.

    past_cache: ask the disk, where the system can, and not the page cache. Raises CheckpointError naming the file if the bytes cannot
    all be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            direct = past_cache and _past_cache(handle, True)
            memory = memoryview(_memory(READ_BYTES + 2 * PAGE_BYTES))
            announced = begin
            while begin < end:
                if not direct and announced < end and announced - begin < AHEAD_BYTES // 2:
                    _read_ahead(handle, announced, min(announced + AHEAD_BYTES, end))
                    announced += AHEAD_BYTES
                wanted = min(READ_BYTES, end - begin)
                lead = begin % PAGE_BYTES if direct else 0  # direct reading wants whole pages
                length = -(-(lead + wanted) // PAGE_BYTES) * PAGE_BYTES if direct else wanted
                try:
                    found = _read_fully(handle, memory[:length], begin - lead, lead + wanted) - lead
                except OSError as error:
                    if error.errno not in NOT_DIRECT or not direct:
                        raise
                    direct = _past_cache(handle, False)
                    continue
                if found < wanted:
                    place = f"{path}: ends at byte {begin + max(found, 0):,}, expected {end:,}"
                    raise CheckpointError(f"{place}: it changed while it was read. Start again.")
                yield memory[lead : lead + wanted]
                begin += wanted
        finally:
            os.close(handle)
    except OSError as error:
        raise CheckpointError(f"{path}: reading failed at byte {begin:,}: {error.strerror}. {to_read(error)}") from error


def _read_fully(handle: int, memory: memoryview, begin: int, enough: int) -> int:
    """Read from `begin` on until `enough` bytes are in the memory, or the file ends; how many there are. A read may give fewer."""
    count = 0
    while count < enough and (more := os.preadv(handle, [memory[count:]], begin + count)):
        count += more
    return count


def _memory(size: int) -> mmap.mmap:
    """Memory of this process alone that begins at a page, as direct reading and writing want it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _past_cache(handle: int, wanted: bool) -> bool:
    """Direct reading and writing on or off; whether it is on now. It stays off where the file system has none."""
    with suppress(OSError):
        if DIRECT:
            fcntl.fcntl(handle, fcntl.F_SETFL, DIRECT if wanted else 0)
            return wanted
    return False


def _read_ahead(handle: int, begin: int, end: int) -> None:
    """Let the disk begin to read a file's bytes into the cache; where the system cannot, nothing happens."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.posix_fadvise(handle, begin, end - begin, os.POSIX_FADV_WILLNEED)


def same_blocks(one: Iterator[memoryview], other: Iterator[memoryview], stopped: threading.Event | None = None) -> bool:
    """Whether what `read_blocks` gives for two ranges of one length is the same; False, too, once `stopped` is set."""
    pairs = zip(one, other, strict=True)
    return all(not (stopped and stopped.is_set()) and bytearray(a).startswith(b) for a, b in pairs)


def write_shard(path: Path, shard: NewShard, progress: Progress | None = None) -> FileRecord:
    """Write a weight file by copying its tensors' bytes from their sources; `progress` is told how many, block by block."""
    with HashedFile(path) as file:
        file.write(shard.header)
        for place in joined(shard.tensors.values()):
            for block in read_blocks(*place):
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
        for block in read_blocks(source, 0, source.stat().st_size):
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
