"""Where an output may go: a new name, or one that may be replaced, outside of the source whatever ways lead there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_layerprune.artifacts.folder import CARD_MARK, CONFIG, MANIFEST, OURS, README, RECORDS
from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.remedies import WRITING, to_write
from hf_layerprune.checkpoint.shards import some
from hf_layerprune.errors import ArtifactError, CheckpointError, shown

# What a card consists of that nobody wrote beside: the metadata, and our parts between their markers.
OUR_PARTS = re.compile(rf"\A---\n.*?\n---\n|{CARD_MARK}begin ([a-z-]+) -->.*?{CARD_MARK}end \1 -->", re.DOTALL)


def check_output(output: Path, *, overwrite: bool, source: Path) -> None:
    """Refuse, before any work, an output folder that must not be written.

    output: a name that does not exist, an empty folder or, with `overwrite`, a folder that a rewrite made. source: the folder
    that is read, which the output may not be, hold, or lie in. CheckpointError for anything else.
    """
    check_place(output, "folder", source)
    if os.path.lexists(output):
        check_existing(output, overwrite)


def check_place(output: Path, kind: str, source: Path | None) -> None:
    """CheckpointError where no output, a `kind` of "folder" or "file", can stand. source: the folder that is read, None for none."""
    with _looked_at(output):
        _check_place(output, kind, source)


@contextmanager
def parents_made(output: Path) -> Iterator[None]:
    """Within the block the folder that an output goes into is there; where the block fails, those that were made for it and are empty go.

    CheckpointError where they cannot be made.
    """
    missing = [parent for parent in output.parents if not parent.exists()]  # the deepest first
    try:
        try:
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                fsync_folder(folder.parent)
        except OSError as error:
            raise CheckpointError(f"{output.parent}: cannot be made: {error.strerror or error}. {to_write(error)}") from error
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _looked_at(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{output}: cannot look at it: {error.strerror or error}. {to_write(error)}") from error


def _check_place(output: Path, kind: str, source: Path | None) -> None:
    if not output.name or output.name == ".." or re.search(r"[\x00-\x1f\x7f]", str(output)):
        raise CheckpointError(f"output {shown(str(output))}: not a name for a new {kind}. Choose another name.")
    if long := next((part for part in output.parts if len(os.fsencode(part)) > 255), None):
        raise CheckpointError(f"output {shown(long)}: the name has {len(os.fsencode(long))} bytes, at most 255 are possible.")
    standing = next(parent for parent in output.parents if os.path.lexists(parent))  # what is missing below is made when it is written
    if not standing.is_dir():
        raise CheckpointError(f"{output}: {standing} is not a folder. Choose another place.")
    if output.is_symlink():
        raise CheckpointError(f"{output} is a link. Name the {kind} itself.")
    if source:
        _check_apart(output, source)
    check_outside_ours(output)
    if not os.access(standing, os.W_OK | os.X_OK):
        raise CheckpointError(f"{output}: the folder {standing} is not writable. {WRITING[errno.EACCES]}")


def check_outside_ours(output: Path) -> None:
    """CheckpointError where an output would lie in a model that a manifest accounts for, which would not verify any more."""
    for folder in output.resolve().parents:  # records alone are what somebody downloaded to rebuild a model beside them
        whole = any(os.path.isfile(folder / name) for name in (CONFIG, "adapter_config.json"))
        if whole and os.path.isfile(folder / RECORDS / MANIFEST):
            said = "a model that hf-layerprune wrote and whose manifest names every file in it"
            raise CheckpointError(f"{output} lies in {folder}, {said}. Choose a place outside.")


def _check_apart(output: Path, source: Path) -> None:
    """Folders are compared, not their names: a second mount, or another case on some file systems, leads to the same one."""
    place, origin = output.resolve(), source.resolve()
    for clash, verb in (
        (_same(place, origin), "is the source itself"),
        (any(_same(parent, origin) for parent in place.parents), f"lies in the source {source}"),
    ):
        if clash:
            raise CheckpointError(f"{output} {verb}, which is never written to. Choose another place.")
    if any(_same(place, parent) for parent in origin.parents):
        raise CheckpointError(f"{output} holds the source {source}, which must not be replaced. Choose another place.")


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them is not there
        return os.path.samefile(one, other)
    return False


def check_file(output: Path, overwrite: bool, load: Callable[[Path], object], what: str, source: Path | None = None) -> None:
    """LayerPruneError unless a file can be written there: outside the folder `source`, new, or `what` and to be overwritten.

    load: reads such a file, and raises ArtifactError for any other.
    """
    check_place(output, "file", source)
    if not output.exists():
        return
    if not output.is_file():
        raise ArtifactError(f"{output}: is not a file. Choose another name.")
    if not overwrite:
        raise ArtifactError(f"{output}: exists. Choose another name, or add --overwrite.")
    try:
        load(output)
    except ArtifactError as error:
        raise ArtifactError(
            f"{output}: exists and is no {what} file of ours, so --overwrite does not replace it. Choose another name."
        ) from error


def check_existing(output: Path, overwrite: bool) -> None:
    """CheckpointError unless what stands at `output` is an empty folder or, with `overwrite`, one that a rewrite made."""
    with _looked_at(output):
        _check_existing(output, overwrite)


def _check_existing(output: Path, overwrite: bool) -> None:
    if not output.is_dir():
        raise CheckpointError(f"{output} is a file. Choose another name for the output folder.")
    if os.path.ismount(output):
        raise CheckpointError(f"{output} is a mount point, which cannot be replaced in one step. Choose a folder within it.")
    if not any(output.iterdir()):
        return
    if not (output / RECORDS / MANIFEST).is_file():
        raise CheckpointError(f"{output} exists, is not empty and was not made by hf-layerprune. Choose another name or empty it yourself.")
    if not overwrite:
        raise CheckpointError(f"{output} exists. Choose another name, or add --overwrite to replace it.")
    if theirs := _not_ours(output):
        raise CheckpointError(
            f"{output} holds files that hf-layerprune did not write, {some(theirs)}, which --overwrite would delete. "
            "Move them away, or choose another name."
        )


def _not_ours(output: Path) -> list[str]:
    """The files of a folder that neither its manifest nor the names of our records account for; a card counts as ours while nobody
    wrote beside our parts of it."""
    ours = {README} if _is_our_card(output / README) else set()
    with suppress(ArtifactError):
        ours |= Manifest.load(output / RECORDS / MANIFEST).files.keys()
    found = (path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in found if name not in ours | OURS)


def _is_our_card(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return f"{CARD_MARK}begin " in text and not OUR_PARTS.sub("", text).strip()
