"""A file of a Hub repository as it is listed, and whether what a server sends of it, or what was fetched, is that file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.copying import read_blocks
from hf_layerprune.checkpoint.folder import safe_name
from hf_layerprune.errors import CheckpointError, shown

AGAIN = "The repository changed or the server is at fault; start again."


@dataclass(frozen=True)
class RemoteFile:
    """A file at one commit. name: its path from config.json's folder; where: how errors name it; size: in bytes; sha256: of its
    content if it lies in LFS or Xet, else None; blob: git's id, sha1 over "blob <size>\\0" and the content, of a file that does not."""

    name: str
    where: str
    size: int
    sha256: str | None
    blob: str

    def __post_init__(self) -> None:
        """CheckpointError where a listing holds what no file has."""
        whole = type(self.size) is int and 0 <= self.size < 1 << 63
        if not (whole and safe_name(self.name) and _is_hash(self.blob, 40) and (self.sha256 is None or _is_hash(self.sha256, 64))):
            raise CheckpointError(f"{shown(self.where)}: the repository lists it as {shown(vars(self))}, which is no file. {AGAIN}")


def check_answer(file: RemoteFile, begin: int, response: Any, known: str | None) -> str:
    """The identity of what a server sends; CheckpointError unless it is the listed file, from `begin` on, and `known` if that is given.

    response: of huggingface_hub's HTTP client, after redirects. What the Hub says of a file in LFS stands in its redirect.
    """
    headers, status = response.headers, response.status_code
    if status == 416:
        raise CheckpointError(f"{file.where}: ends before byte {begin:,}, expected {file.size:,} bytes as listed. {AGAIN}")
    if (packed := headers.get("Content-Encoding", "identity")) != "identity":
        raise CheckpointError(f"{file.where}: the server sends it packed ({shown(packed)}), expected its bytes. {AGAIN}")
    sent = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", headers.get("Content-Range", ""))
    start, total = (sent[1], sent[2]) if status == 206 and sent else ("0" if status == 200 else "-", headers.get("Content-Length", "none"))
    if start != str(begin):
        raise CheckpointError(
            f"{file.where}: asked for bytes from {begin:,} on, the server sent others (status {status}). "
            "It cannot be read in parts; download the repository first (hf download)."
        )
    if total != str(file.size):
        found = f"{int(total):,}" if re.fullmatch(r"[0-9]{1,19}", total) else shown(total)
        raise CheckpointError(f"{file.where}: is {found} bytes, expected {file.size:,} as the repository lists it. {AGAIN}")
    linked = next((answer.headers["X-Linked-ETag"] for answer in (*response.history, response) if "X-Linked-ETag" in answer.headers), None)
    tag: str = (linked or headers.get("ETag") or "").removeprefix("W/").strip('"')
    expected = known or (file.sha256 if linked else None) or tag
    if tag != expected:
        raise CheckpointError(
            f"{file.where}: has the ETag {shown(tag)}, expected {shown(expected)}: it is another file than before. {AGAIN}"
        )
    return tag


def is_listed(path: Path, record: FileRecord, file: RemoteFile) -> bool:
    """Whether a fetched file, of this size and sha256, is the one that the repository lists."""
    if record.bytes != file.size:
        return False
    return record.sha256 == file.sha256 if file.sha256 else git_id(path) == file.blob


def git_id(path: Path) -> str:
    """The id that git gives a file: sha1, in hexadecimal, over "blob <size>\\0" and its content."""
    size = path.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for block in read_blocks(path, 0, size):
        digest.update(block)
    return digest.hexdigest()


def _is_hash(text: object, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None
