"""An output folder that appears whole or not at all: built beside its place under a hidden name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.checkpoint.copying import write_file
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.output_place import check_existing, check_output, parents_made
from hf_layerprune.checkpoint.remedies import WRITING, to_write, told_as
from hf_layerprune.errors import CheckpointError


def hidden_beside(output: Path, part: str) -> Path:
    """Where a run into `output` keeps a part of its own, beside it: 255 bytes of a name leave no room for a suffix, so a digest."""
    return output.parent / f".layerprune-{hashlib.sha256(os.fsencode(output.name)).hexdigest()[:16]}.{part}"


@contextmanager
def staged_folder(output: Path, *, overwrite: bool, source: Path, needed: int = 0, identity: str | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes `output` when the block ends without an error, and is removed when it does not.

    needed: bytes that must be free before the block begins. Files must be durable when the block ends; folders are made so
    here. What a killed run left is cleaned up by the next run into the same output. identity: of work that can be gone on
    with: the folder then holds what an earlier run of the same identity left, and stays when this one ends with an error.
    Raises CheckpointError as `check_output` does, when another run holds the output, and for every error of the file system,
    which, without an identity, leaves nothing behind.
    """
    check_output(output, overwrite=overwrite, source=source)
    staging, replaced, marker = (hidden_beside(output, part) for part in ("staging", "replaced", "resume"))
    try:
        with ExitStack() as stack:
            stack.enter_context(told_as(staging, str(output)))
            stack.enter_context(_ended_by_sigterm())
            stack.enter_context(parents_made(output))
            stack.enter_context(hold(hidden_beside(output, "lock"), str(output)))
            _recover(output, staging, replaced, marker, identity)
            check_output(output, overwrite=overwrite, source=source)
            _check_space(output, needed - _size(staging))
            if identity is None:
                stack.callback(_clear, staging, marker)
            elif not marker.exists():
                write_file(marker, identity.encode())  # torn, it is no identity, and what lies beside it is cleared
                fsync_folder(output.parent)
            staging.mkdir(exist_ok=identity is not None)
            yield staging
            _commit(output, staging, replaced, marker, overwrite=overwrite)
    except OSError as error:
        left = "nothing was left there" if identity is None else "what was finished is kept for the next run"
        raise CheckpointError(f"{output}: writing it failed: {error.strerror or error}; {left}. {to_write(error)}") from error


def _recover(output: Path, staging: Path, replaced: Path, marker: Path, identity: str | None) -> None:
    """Clean up after a run that was killed: while it wrote, or between two renames."""
    if replaced.exists() and not output.exists():
        os.rename(replaced, output)
    kept = identity is not None and marker.is_file() and marker.read_text(errors="replace") == identity and not staging.is_symlink()
    for stale in (replaced,) if kept else (staging, replaced, marker):
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)


def _clear(*places: Path) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            place.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that may not be there."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _check_space(output: Path, needed: int) -> None:
    if (free := shutil.disk_usage(output.parent).free) < needed:
        raise CheckpointError(f"{output}: {needed:,} bytes are needed and {free:,} are free. {WRITING[errno.ENOSPC]}")


def _commit(output: Path, staging: Path, replaced: Path, marker: Path, *, overwrite: bool) -> None:
    """Put the staging folder in its place. What stood there and may be replaced is moved aside first, and removed.

    What somebody else put there meanwhile stays: a rename replaces nothing but an empty folder.
    """
    for folder, _, _ in os.walk(staging, topdown=False):
        fsync_folder(Path(folder))
    if os.path.lexists(output):
        check_existing(output, overwrite)
    if not overwrite or not output.exists():
        _rename(staging, output)
    else:
        _replace(output, staging, replaced)
    try:
        fsync_folder(output.parent)
    except OSError as error:
        whole = "it is there, whole, but making its name durable failed"
        raise CheckpointError(f"{output}: {whole}: {error.strerror}; a power cut may undo it. {to_write(error)}") from error
    finally:
        _clear(staging, replaced, marker)


def _rename(staging: Path, output: Path) -> None:
    """Give the folder its name; an empty folder that has it makes way, also on a file system that renames onto none."""
    try:
        os.rename(staging, output)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        os.rmdir(output)  # refuses one that is not empty
        try:
            os.rename(staging, output)
        except OSError:
            os.mkdir(output)
            raise


def _replace(output: Path, staging: Path, replaced: Path) -> None:
    """Move what stands there aside first, and back if the second rename fails; a run that dies between leaves it to `_recover`."""
    try:
        os.rename(output, replaced)
        os.rename(staging, output)
    except BaseException:
        if replaced.exists() and not output.exists():
            os.rename(replaced, output)
        raise


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, unless the program has a handler of its own."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
