"""What is kept between runs: each result under a digest of all that decides it, there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hf_layerprune.artifacts.jsonfile import digest_of, fsync_folder, kept_folder, write_atomic
from hf_layerprune.errors import ArtifactError, DataError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems on which a file's existence must do


def acquired(path: Path, timeout: float = -1) -> BaseFileLock:
    """A lock on the file `path`, waited for `timeout` seconds, by default for ever: the kernel's, which ends with its process, or where the
    file system has none, a SoftFileLock.

    filelock.Timeout if another holds it, OSError as the system raises it if the file cannot be made.
    """
    lock: BaseFileLock = FileLock(path, timeout=timeout, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in WITHOUT_LOCKS:
            raise
        if path.stat().st_size == 0:  # made just now, for a lock that is not to be had; a holder's has its name in it
            path.unlink()
        lock = SoftFileLock(path, timeout=timeout, thread_local=False)
        lock.acquire()
    return lock


def kept_or_said(kind: str, say: Callable[[str], object] = lambda line: None) -> Path | None:
    """`kept_folder`; None where nothing can be kept, which is said: work goes on without."""
    try:
        return kept_folder(kind)
    except ArtifactError as error:
        say(f"warning: {error} This run goes on without keeping anything.")
        return None


@dataclass(frozen=True)
class Entry:
    """A result in a folder of results, and beside it what an interrupted run left of it."""

    folder: Path
    name: str
    suffix: str = ""  # of a file, such as ".safetensors"; none for a result that is a folder

    @classmethod
    def of(cls, folder: Path, key: Any, *, prefix: str = "", suffix: str = "") -> Entry:
        """The entry of a result. key: all that decides it, as a JSON value; prefix: tells people what it is."""
        return cls(folder, f"{prefix}{digest_of(key)[:32]}", suffix)

    @property
    def path(self) -> Path:
        """Where the finished result is, if there is one."""
        return self.folder / f"{self.name}{self.suffix}"

    @property
    def partial(self) -> Path:
        """Where an unfinished one is."""
        return self.folder / f"{self.name}.partial{self.suffix}"

    def write(self, content: bytes, *, partial: bool = False) -> None:
        """Keep a file, finished or of a run that goes on. DataError or ArtifactError where the file system refuses."""
        with self._refusals():
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(self.partial if partial else self.path, content)
        finally:
            if not partial and self.path.is_file():  # also where only making its name durable failed
                with suppress(OSError):  # left there it does no harm: what is finished is looked for first
                    self.partial.unlink()

    def build(self, fill: Callable[[Path], None]) -> Path:
        """The finished folder; if there is none, what `fill` writes into the folder it is given, which may hold what an earlier call left.

        One process fills it while the others wait. DataError where the file system refuses.
        """
        if self.path.is_dir():
            return self.path
        with self._refusals():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = acquired(self.folder / f"{self.name}.lock")
            try:
                if not self.path.is_dir():  # another process may have filled it while this one waited
                    self.partial.mkdir(exist_ok=True)
                    fill(self.partial)
                    fsync_folder(self.partial)
                    os.rename(self.partial, self.path)
                    fsync_folder(self.folder)
            finally:
                lock.release()
        return self.path

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self.path}: cannot be kept there: {reason}. Free space, or name another place with HF_HOME.") from error
