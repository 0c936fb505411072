"""One run at a time into one output. The lock file says who holds it; the kernel frees it when that process ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

from hf_layerprune.data.store import acquired
from hf_layerprune.errors import CheckpointError


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, and remove it afterwards.

    Raises CheckpointError naming the holder if another run has it; OSError as the system raises it if the file cannot be made.
    """
    try:
        lock = acquired(path, timeout=0)
    except Timeout:
        raise CheckpointError(
            f"{what}: {_holder(path)} is writing it. Wait for it; if you are sure that it is dead, remove {path}."
        ) from None
    try:
        if not isinstance(lock, SoftFileLock):  # which writes its own
            path.write_text(f"process {os.getpid()} on {platform.node()!r}")
        yield
    finally:
        # Removed while still locked: whoever opened it meanwhile finds that its name is gone, and opens it anew.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if (text := path.read_text()[:200]).startswith("process "):
            return text.splitlines()[0]
    return "another run"
