"""What is kept between runs: each result under a digest of all that decides it, there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hf_layerprune.artifacts.jsonfile import digest_of, fsync_folder, write_atomic
from hf_layerprune.errors import DataError


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

    def write(self, content: bytes) -> None:
        """Keep a finished file. DataError or ArtifactError where the file system refuses; what was there stays."""
        try:
            self._write(self.path, content)
        finally:
            with suppress(OSError):  # left there it does no harm: what is finished is looked for first
                if self.path.exists():
                    self.partial.unlink()

    def write_partial(self, content: bytes) -> None:
        """Keep a file for a run that goes on; raises as `write` does."""
        self._write(self.partial, content)

    def build(self, fill: Callable[[Path], None]) -> Path:
        """The finished folder; if there is none, what `fill` writes into the folder it is given, which may hold what an earlier call left.

        One process fills it while the others wait. DataError where the file system refuses.
        """
        if not self.path.is_dir():
            with self._refusals(), self.locked():
                if not self.path.is_dir():  # another process may have filled it while this one waited
                    self.partial.mkdir(exist_ok=True)
                    fill(self.partial)
                    fsync_folder(self.partial)
                    os.rename(self.partial, self.path)
                    fsync_folder(self.folder)
        return self.path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry's lock, waiting for it; the system gives it back however the process ends. DataError if there can be none."""
        lock = FileLock(self.folder / f"{self.name}.lock")
        with self._refusals(), suppress(NotImplementedError):  # some network file systems have no locks; a result still appears whole
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _write(self, path: Path, content: bytes) -> None:
        with self._refusals():
            self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self.path}: cannot be kept there: {reason}. Free space, or name another place with HF_HOME.") from error
