"""An output folder that appears whole or not at all: built beside its place under a hidden name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from hf_layerprune.artifacts.files import fsync_folder, write_atomic
from hf_layerprune.checkpoint.exchange import exchange
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.remedies import WRITING, to_write
from hf_layerprune.checkpoint.side_files import MANIFEST, RECORDS
from hf_layerprune.errors import CheckpointError, shown


def check_output(output: Path, *, overwrite: bool, source: Path) -> None:
    """Refuse, before any work, an output that must not be written.

    output: a name that does not exist, an empty folder or, with `overwrite`, a folder that a rewrite made. source: the folder
    that is read, which the output may not be, hold, or lie in. CheckpointError for anything else.
    """
    if not output.name or output.name == ".." or re.search(r"[\x00-\x1f\x7f]", str(output)):
        raise CheckpointError(f"output {shown(str(output))}: not a name for a new folder. Choose another name.")
    if len(os.fsencode(output.name)) > 255:
        raise CheckpointError(f"output {shown(output.name)}: the name has {len(os.fsencode(output.name))} bytes, at most 255 are possible.")
    if not output.parent.is_dir():
        raise CheckpointError(f"{output}: the folder {output.parent} does not exist. Create it first (mkdir -p).")
    if output.is_symlink():
        raise CheckpointError(f"{output} is a link. Name the folder itself.")
    place, origin = output.resolve(), source.resolve()
    if place == origin:
        raise CheckpointError(f"{output} is the source itself, which is never written to. Choose another place.")
    if origin in place.parents:
        raise CheckpointError(f"{output} lies in the source {source}, which is never written to. Choose another place.")
    if place in origin.parents:
        raise CheckpointError(f"{output} holds the source {source}, which must not be replaced. Choose another place.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise CheckpointError(f"{output}: the folder {output.parent} is not writable. {WRITING[errno.EACCES]}")
    if output.exists():
        _check_existing(output, overwrite)


def _check_existing(output: Path, overwrite: bool) -> None:
    if not output.is_dir():
        raise CheckpointError(f"{output} is a file. Choose another name for the output folder.")
    if os.path.ismount(output):
        raise CheckpointError(f"{output} is a mount point, which cannot be replaced in one step. Choose a folder within it.")
    if not any(output.iterdir()):
        return
    ours = (output / RECORDS / MANIFEST).is_file()
    if not ours:
        raise CheckpointError(f"{output} exists, is not empty and was not made by hf-layerprune. Choose another name or empty it yourself.")
    if not overwrite:
        raise CheckpointError(f"{output} exists. Choose another name, or add --overwrite to replace it.")


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
            stack.enter_context(_ended_by_sigterm())
            stack.enter_context(hold(hidden_beside(output, "lock"), str(output)))
            _recover(output, staging, replaced, marker, identity)
            check_output(output, overwrite=overwrite, source=source)
            _check_space(output, needed - _size(staging))
            if identity is None:
                stack.callback(_clear, staging, marker)
            else:
                write_atomic(marker, identity.encode())
            staging.mkdir(exist_ok=identity is not None)
            yield staging
            _commit(output, staging, replaced, marker, overwrite=overwrite)
            _clear(staging, marker)
    except OSError as error:
        left = "nothing was left there" if identity is None else "what was finished is kept for the next run"
        raise CheckpointError(f"{output}: writing it failed: {error.strerror or error}; {left}. {to_write(error)}") from error


def _recover(output: Path, staging: Path, replaced: Path, marker: Path, identity: str | None) -> None:
    """Clean up after a run that was killed: while it wrote, after it exchanged the folders, or between two renames."""
    if replaced.exists() and not output.exists():
        os.rename(replaced, output)
    kept = identity is not None and marker.is_file() and marker.read_text(errors="replace") == identity
    for stale in (replaced,) if kept else (staging, replaced):
        if stale.exists():
            shutil.rmtree(stale)
    if not kept:
        marker.unlink(missing_ok=True)


def _clear(staging: Path, marker: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    with suppress(OSError):
        marker.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that may not be there."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _check_space(output: Path, needed: int) -> None:
    if (free := shutil.disk_usage(output.parent).free) < needed:
        raise CheckpointError(f"{output}: {needed:,} bytes are needed and {free:,} are free. {WRITING[errno.ENOSPC]}")


def _commit(output: Path, staging: Path, replaced: Path, marker: Path, *, overwrite: bool) -> None:
    """Put the staging folder in its place. What stood there and may be replaced changes places with it, and is removed as stale staging is.

    What somebody else put there meanwhile stays: a rename replaces nothing but an empty folder.
    """
    for folder, _, _ in os.walk(staging, topdown=False):
        fsync_folder(Path(folder))
    if os.path.lexists(output):
        _check_existing(output, overwrite)
    if not overwrite or not output.exists():
        os.rename(staging, output)
    else:
        marker.unlink(missing_ok=True)  # what lies in staging after the exchange is nothing to go on with
        if not exchange(staging, output):
            _replace(output, staging, replaced)
    fsync_folder(output.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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
