"""Folders that are made once and kept: whole or not at all, by one process while the others wait."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.errors import DataError


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; if it is not there, what `make` writes into the folder it is given, which then gets the name.

    `make` finds there what an interrupted one left. DataError if the file system refuses.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(f"{folder.name}.lock")):
                if not folder.is_dir():  # another process may have made it while this one waited
                    partial.mkdir(exist_ok=True)
                    make(partial)
                    fsync_folder(partial)
                    os.rename(partial, folder)
                    fsync_folder(folder.parent)
    except OSError as error:
        raise DataError(f"{folder}: cannot be kept there: {error.strerror or error}. Free space, or choose another cache.") from error
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that the system gives back when this process ends, however it ends; without one where there are none."""
    with lock.open("ab") as file:
        with suppress(OSError):  # some network file systems have no locks; the rename is whole all the same
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
