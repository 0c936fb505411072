"""Prove what lies in the Hub's cache: each file there is named by the sum that the Hub lists for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.checkpoint.copying import hash_file
from hf_layerprune.checkpoint.remote_files import git_id
from hf_layerprune.errors import LayerPruneError, SourceError

SUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's id of a small file, sha256 of one in LFS or Xet
READERS = 2


def prove_cached(snapshot: Path, patterns: Sequence[str], where: str, fetch_again: Callable[[str], object] | None) -> None:
    """Compare a snapshot's files that match patterns with the sums that they are named by, where the cache consists of links.

    huggingface_hub compares sizes, so that a file which arrived with a wrong byte would be taken for the Hub's by all that follows.
    where: how errors name the snapshot; fetch_again: called once with the name of a damaged file, None offline. A large file is
    read once, and that it was right is remembered. SourceError naming the first file that stays wrong.
    """
    links = {path.relative_to(snapshot).as_posix(): path for path in sorted(snapshot.rglob("*")) if path.is_symlink() and path.is_file()}
    files = {name: path for name, path in links.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    with ThreadPoolExecutor(READERS) as readers:
        right = dict(zip(files, readers.map(_is_right, files.values()), strict=True))
    for name in (name for name, good in right.items() if not good):
        if fetch_again:
            fetch_again(name)
        if not fetch_again or not _is_right(files[name]):
            remedy = "The server or the connection is at fault: run again later" if fetch_again else "Run again online"
            raise SourceError(
                f"{where}/{name}: what lies in the Hub's cache is not the file that the Hub lists. {remedy}, to fetch it anew."
            )


def _is_right(path: Path) -> bool:
    """Whether a link's target has the sum that it is named by; a name of another kind promises nothing."""
    blob = path.resolve()
    if not SUM.fullmatch(blob.name):
        return True
    if len(blob.name) == 40:
        return git_id(blob) == blob.name
    state = _state(blob)
    note = _note(blob.name)
    if note and note.is_file() and note.read_text() == state:
        return True
    if hash_file(blob).sha256 != blob.name:
        return False
    with suppress(OSError):
        if note:
            note.write_text(state)
    return True


def _state(blob: Path) -> str:
    """What changes when a file is written anew."""
    found = os.stat(blob)
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}\n"


def _note(sha256: str) -> Path | None:
    """Where it is remembered that a large file is right; None where nothing can be kept."""
    try:
        return kept_folder("proved") / sha256
    except LayerPruneError:
        return None
