"""Move bytes: block by block, past the page cache where that is faster, hashed on the way, durable once the file is closed."""

from __future__ import annotations

import ctypes
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

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.layout import NewShard
from hf_layerprune.checkpoint.page_cache import is_cached
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError

READ_BYTES = 4 << 20  # smaller requests leave the disk idle between them
BLOCK_BYTES = 4 << 20  # a write to the disk: large enough to keep it busy; whole pages
BLOCKS = 4  # one is filled, one written, one hashed, and one evens out their stalls: this bounds the memory
HUGE_BYTES = 2 << 20  # a huge page, which the disk is handed in one piece; in pages of 4 KB a block is eight requests or more
PAGE_BYTES = 4096  # what direct reading and writing is aligned to: no smaller than any disk's sector
DECIDED_BYTES = 16 << 20  # after so many it is looked again whether a file is in the page cache, and read ahead into it if it is
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has no such thing, and nothing is read or written past the page cache
# What a file system answers that grants direct reading and writing and then cannot do it, or not at this place and length.
NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}

Progress = Callable[[int], None]


class HashedFile:
    """A new file that is hashed while it is written: a block goes from the caller to a thread that writes and on to one that hashes.

    Full blocks go to the disk past the page cache (O_DIRECT): making new pages in the cache and writing them back takes more time than
    the disk, and pushes out of memory what somebody will want. Leaving the `with` block makes the file durable; `record` then holds
    its size and sha256. OSError as the system raises it, also for a block that was handed over earlier.
    """

    record: FileRecord

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = self._filled = 0  # bytes written, and in the block that is being filled
        self._direct = False
        self._failed: BaseException | None = None  # what ended the writing or the hashing before its time
        self._digest = hashlib.sha256()
        # SimpleQueue, and no bounded Queue: an interrupt that arrives within Queue.put can leave its lock held for ever.
        self._to_write: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._to_hash: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._block, self._unmade = _memory(BLOCK_BYTES), BLOCKS - 1
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
        if not self._threads:  # a file of one block needs none
            for work in (self._write_blocks, self._hash_blocks):
                self._start(threading.Thread(target=work, daemon=True))
        self._to_write.put(self._block)
        if self._unmade and self._free.empty():
            self._unmade -= 1
            self._block = _memory(BLOCK_BYTES)
        else:
            self._block = self._free.get()
        self._filled = 0
        if self._failed:
            raise self._failed

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        self._threads.append(thread)

    def _write_blocks(self) -> None:
        while (block := self._to_write.get()) is not None:
            self._unless_failed(self._store, block)
            self._to_hash.put(block)
        self._to_hash.put(None)

    def _hash_blocks(self) -> None:
        while (block := self._to_hash.get()) is not None:
            self._unless_failed(self._digest.update, block)
            self._free.put(block)  # also after a failure: the caller waits for it

    def _unless_failed(self, work: Callable[[memoryview], object], block: memoryview) -> None:
        try:
            if self._failed is None:
                work(block)
        except BaseException as error:
            self._failed = error

    def _store(self, block: memoryview) -> None:
        """Write a block, full ones past the page cache."""
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


def read_blocks(path: Path, begin: int, end: int, *, past_cache: bool = False, size: int | None = None) -> Iterator[memoryview]:
    """The bytes of a file from `begin` to before `end`, in blocks of `size` bytes, READ_BYTES by default, but the last.

    Each block is gone when the next is asked for, and two ranges of one length come in the same blocks. What is in the page cache
    is taken from there, or with `past_cache` not; what is not is read from the disk without going through the cache, where the
    system can. Raises CheckpointError naming the file if the bytes cannot all be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = size or READ_BYTES
            memory = _memory(min(size, end - begin) + 2 * PAGE_BYTES)
            direct, decided, possible = False, begin, bool(DIRECT)
            while begin < end:
                if begin >= decided:
                    decided = min(begin + DECIDED_BYTES, end)
                    direct = possible and (past_cache or not is_cached(handle, begin, decided))
                    if not direct:
                        _read_ahead(handle, begin, decided)
                wanted = min(size, decided - begin)
                try:
                    block = _read_direct(handle, memory, begin, wanted) if direct else _read(handle, memory[:wanted], begin, wanted)
                except OSError as error:
                    if error.errno not in NOT_DIRECT or not direct:
                        raise
                    direct = possible = False
                    continue
                if len(block) < wanted:
                    place = f"{path}: ends at byte {begin + len(block):,}, expected {end:,}"
                    raise CheckpointError(f"{place}: it changed while it was read. Start again.")
                yield block
                begin += wanted
        finally:
            os.close(handle)
    except OSError as error:
        raise CheckpointError(f"{path}: reading failed at byte {begin:,}: {error.strerror}. {to_read(error)}") from error


def _read_direct(handle: int, memory: memoryview, begin: int, wanted: int) -> memoryview:
    """The bytes from `begin` on, past the page cache: direct reading wants whole pages. Fewer than wanted only at the file's end."""
    lead = begin % PAGE_BYTES
    pages = -(-(lead + wanted) // PAGE_BYTES)
    if not _past_cache(handle, True):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        found = _read(handle, memory[: pages * PAGE_BYTES], begin - lead, lead + wanted)
    finally:
        _past_cache(handle, False)
    return found[lead : lead + wanted]


def _read(handle: int, memory: memoryview, begin: int, enough: int) -> memoryview:
    """Read from `begin` on until `enough` bytes are in the memory, or the file ends: what there is of it. A read may give fewer."""
    count = 0
    while count < enough and (more := os.preadv(handle, [memory[count:]], begin + count)):
        count += more
    return memory[:count]


def _memory(size: int) -> memoryview:
    """Memory of this process alone that begins at a page, as direct reading and writing want it: at a huge one where there is that much."""
    if size < HUGE_BYTES:
        return memoryview(_private(size))
    whole = -(-size // HUGE_BYTES) * HUGE_BYTES  # of such a length Linux since 6.7 lets it begin at a huge page
    memory = _private(whole)
    if _address(memory) % HUGE_BYTES:
        memory = _private(whole + HUGE_BYTES)
    if advice := getattr(mmap, "MADV_HUGEPAGE", None):
        with suppress(OSError):
            memory.madvise(advice)
    begin = -_address(memory) % HUGE_BYTES
    return memoryview(memory)[begin : begin + size]


def _private(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


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
