"""Move bytes: read, written past the page cache and hashed at the same time, and durable once the file is closed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError

BLOCK_BYTES = 4 << 20  # of a read and a write: large enough to keep a disk busy; whole pages
BLOCKS = 4  # one is filled, one written, one hashed, and one evens out their stalls: this bounds the memory
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has no such thing, and nothing is written past the page cache
# What a file system answers that grants direct writing and then cannot do it, or not at this place and length.
NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}

# SimpleQueue, and no bounded Queue: an interrupt that arrives within Queue.put can leave its lock held for ever. None is the end.
Blocks = queue.SimpleQueue["memoryview | None"]


class HashedFile:
    """A new file that is hashed while it is written: a block goes from the caller to a thread that writes and on to one that hashes.

    Full blocks go to the disk past the page cache (O_DIRECT): making new pages in the cache and writing them back takes more time than
    the disk, and who reads the file back asks the disk. Leaving the `with` block makes the file durable; `record` then holds its size
    and sha256. OSError as the system raises it, also for a block that was handed over earlier.
    """

    record: FileRecord

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._filled = 0  # bytes written, and in the block that is being filled
        self._direct = False
        self._failed: BaseException | None = None  # what ended the writing or the hashing before its time
        self._digest = hashlib.sha256()
        self._to_write, self._to_hash, self._free = Blocks(), Blocks(), Blocks()
        self._block = _memory()
        for _ in range(BLOCKS - 1):
            self._free.put(_memory())
        self._threads: list[threading.Thread] = []

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes, which are copied: the memory may be used again at once."""
        rest = memoryview(content)
        while rest:
            if self._filled == BLOCK_BYTES:
                self._hand_over()
            taken = rest[: BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled, rest = self._filled + len(taken), rest[len(taken) :]

    def _hand_over(self) -> None:
        """Pass the full block on and take another one to fill, as soon as there is one."""
        steps = (self._to_write, self._store, self._to_hash), (self._to_hash, self._digest.update, self._free)
        for step in () if self._threads else steps:  # a file of one block needs none
            thread = threading.Thread(target=self._pass_on, args=step, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, str(error)) from error
            self._threads.append(thread)
        self._to_write.put(self._block)
        self._block, self._filled = self._free.get() or self._block, 0
        if self._failed:
            raise self._failed

    def _pass_on(self, blocks: Blocks, work: Callable[[memoryview], object], done: Blocks) -> None:
        """Do a part of the work on every block, and hand it on; also after a failure, since the caller waits for it."""
        while (block := blocks.get()) is not None:
            try:
                if self._failed is None:
                    work(block)
            except BaseException as error:
                self._failed = error
            done.put(block)
        done.put(None)

    def _store(self, block: memoryview) -> None:
        """Write a block, a full one past the page cache."""
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

    def __enter__(self) -> HashedFile:
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._failed = self._failed or error  # then what was handed over is not written any more
        try:
            if self._threads:
                self._to_write.put(None)
                for thread in self._threads:
                    thread.join()
            if error is None:
                if self._failed:
                    raise self._failed
                last = self._block[: self._filled]
                self._store(last)
                self._digest.update(last)
                os.fsync(self._handle)
                self.record = FileRecord(self._size, self._digest.hexdigest())
        finally:
            if not any(thread.is_alive() for thread in self._threads):  # after two interrupts: its number must not become another file's
                os.close(self._handle)


def _memory() -> memoryview:
    """A block of memory that begins at a page, as direct writing wants it, and counts as this process's own."""
    return memoryview(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _past_cache(handle: int, wanted: bool) -> bool:
    """Direct writing on or off; whether it is on now. It stays off where the file system has none."""
    with suppress(OSError):
        if DIRECT:
            fcntl.fcntl(handle, fcntl.F_SETFL, DIRECT if wanted else 0)
            return wanted
    return False


def read_blocks(path: Path, begin: int, end: int) -> Iterator[memoryview]:
    """The bytes of a file from `begin` to before `end`, in blocks of BLOCK_BYTES but the last; each is gone when the next is asked for.

    Raises CheckpointError naming the file if the bytes cannot all be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            memory = memoryview(bytearray(min(BLOCK_BYTES, max(end - begin, 0))))
            while begin < end:
                wanted, found = min(BLOCK_BYTES, end - begin), 0
                while found < wanted and (more := os.preadv(file.fileno(), [memory[found:wanted]], begin + found)):
                    found += more
                if found < wanted:
                    place = f"{path}: ends at byte {begin + found:,}, expected {end:,}"
                    raise CheckpointError(f"{place}: it changed while it was read. Start again.")
                yield memory[:wanted]
                begin += wanted
    except OSError as error:
        raise CheckpointError(f"{path}: reading failed at byte {begin:,}: {error.strerror}. {to_read(error)}") from error


def same_blocks(one: Iterator[memoryview], other: Iterator[memoryview], stopped: threading.Event | None = None) -> bool:
    """Whether what `read_blocks` gives for two ranges of one length is the same; False, too, once `stopped` is set."""
    pairs = zip(one, other, strict=True)
    return all(not (stopped and stopped.is_set()) and bytearray(a).startswith(b) for a, b in pairs)  # much faster than a == b


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
