"""Whether a file is the one that a repository lists, and a repository or folder what a manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.errors import CheckpointError, shown
from hf_layerprune.hub.listing import START_AGAIN, RemoteFile, RemoteRepo


def prove(content: Path | bytes, file: RemoteFile) -> FileRecord:
    """Size and sha256 of fetched content; CheckpointError unless it is the file that the repository lists. OSError as raised."""
    record = record_of(content)
    if not is_listed(content, file, record):
        raise CheckpointError(
            f"{file.where}: fetched {record.bytes:,} bytes with sha256 {record.sha256[:12]}, expected {file.size:,} bytes "
            f"with {file.sum} as the repository lists it. {START_AGAIN}"
        )
    return record


def is_listed(content: Path | bytes, file: RemoteFile, record: FileRecord) -> bool:
    """Whether content of this size and sha256 is what the repository lists; it is read only for git's id, of a file outside LFS."""
    if record.bytes != file.size:
        return False
    return record.sha256 == file.sha256 if file.sha256 else git_id(content) == file.blob


def record_of(content: Path | bytes) -> FileRecord:
    """Size and sha256 of content."""
    if isinstance(content, bytes):
        return FileRecord(len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileRecord(opened.tell(), digest)


def git_id(content: Path | bytes) -> str:
    """The id that git gives content: sha1, in hexadecimal, over "blob <size>\\0" and its bytes."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def differences(expected: Mapping[str, FileRecord], found: Mapping[str, int], record: Callable[[str], FileRecord]) -> Iterator[str]:
    """What tells the files of a repository or folder apart from those of a manifest, one sentence each.

    expected: the manifest's; found: the names that are there, and their sizes in bytes; record: reads one of them, called where the
    size is right. Raises what that raises, but for a CheckpointError, which is a difference too.
    """
    for name in sorted(found.keys() - expected.keys()):
        yield f"{shown(name)} is not in the manifest"
    for name, wanted in expected.items():
        if name not in found:
            yield f"{shown(name)} is missing"
        elif found[name] != wanted.bytes:
            yield f"{shown(name)} is {found[name]:,} bytes, expected {described(wanted)}"
        else:
            try:
                if (actual := record(name)) != wanted:
                    yield f"{shown(name)} is {described(actual)}, expected {described(wanted)}"
            except CheckpointError as error:
                yield f"{shown(name)} cannot be compared: {error}"


def listed_record(repo: RemoteRepo, name: str, limit: int) -> FileRecord:
    """Size and sha256 of a listed file, which is read only where it lies outside LFS.

    CheckpointError if it is sent as another file than is listed, or has more than `limit` bytes and no sha256.
    """
    file = repo.files[name]
    if file.sha256:
        return FileRecord(file.size, file.sha256)
    return prove(small_file(repo, name, limit), file)


def small_file(repo: RemoteRepo, name: str, limit: int) -> bytes:
    """A listed file of at most `limit` bytes, proved; CheckpointError if it has more."""
    file = repo.files[name]
    if file.size > limit:
        raise CheckpointError(f"{file.where}: {file.size:,} bytes, at most {limit:,} are read of a file outside LFS.")
    content = repo.read(name, 0, file.size)
    prove(content, file)
    return content


def described(record: FileRecord) -> str:
    """A size and the beginning of a sha256, as differences show them."""
    return f"{record.bytes:,} bytes with sha256 {record.sha256[:12]}"
