"""What is let in from an untrusted folder: names that stay inside it, regular files, JSON of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import parse_json
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import ArtifactError, CheckpointError, shown

POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that stands for one which git did not fetch
NOT_FETCHED = "a Git LFS pointer, not the file itself. Run `git lfs pull` in the folder, or fetch it: hf download ID --local-dir FOLDER"


def refuse_twins(names: Iterable[str], where: str) -> None:
    """Raise CheckpointError where two names differ only in case: on some file systems they are one file."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise CheckpointError(f"{where}: {shown(other)} and {shown(name)} differ only in case. Rename one of them.")


def regular_file(folder: Path, name: str, remedy: str) -> Path:
    """The path of a regular file in a folder; links are followed only within it and into the Hub cache's blobs.

    CheckpointError that ends with `remedy` if it is missing, a folder, a device or a link that leads elsewhere.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, up to Python 3.12
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise CheckpointError(f"{folder}: {shown(name)} cannot be reached: {error.strerror}. {to_read(error)}") from error
        state = "is a link that leads nowhere" if os.path.islink(path) else "is missing"
        raise CheckpointError(f"{folder}: {shown(name)} {state}. {remedy}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise CheckpointError(f"{folder}: {shown(name)} is {kind}, expected a regular file. {remedy}")
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise CheckpointError(f"{folder}: {shown(name)} is a link to {shown(str(target))}, outside the checkpoint. Put the file there.")
    return path


def read_object(folder: Path, name: str, what: str, limit: int, remedy: str) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes strictly; CheckpointError naming the file otherwise."""
    path = regular_file(folder, name, remedy)
    try:
        if (size := path.stat().st_size) > limit:
            raise CheckpointError(f"{path}: {size:,} bytes is no {what}; at most {limit:,} are read. {remedy}")
        return parse_json(path.read_bytes(), str(path), what)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the {what}: {error.strerror}. {to_read(error)}") from error
    except ArtifactError as error:
        raise CheckpointError(f"{error} {remedy}") from error


def _roots(folder: Path) -> list[Path]:
    """The folder itself and, for a snapshot in the Hub cache, the blobs that its links lead to."""
    here = folder.resolve()
    return [here, *(parent.parent.parent / "blobs" for parent in (here, *here.parents) if parent.parent.name == "snapshots")]
