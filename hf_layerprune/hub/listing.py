"""A Hub repository at one commit: what it lists, ranges of its files, and proof that a file is the listed one."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import safe_name
from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.errors import CheckpointError, SourceError, shown
from hf_layerprune.hub.errors import Call, hub_errors, transport_error

START_AGAIN = "The repository changed or the server is at fault; start again."
MAX_FILES = 100_000
RETRIES, WAIT_SECONDS = 5, 1.0  # as huggingface_hub's own download


@dataclass(frozen=True)
class RemoteFile:
    """A file as a repository lists it at one commit; CheckpointError where a listing holds what no file has."""

    name: str  # its path from config.json's folder
    where: str  # how errors name it
    size: int  # in bytes
    sha256: str | None  # of its content if it lies in LFS or Xet
    blob: str  # git's id, sha1 over "blob <size>\0" and the content, of a file that does not

    def __post_init__(self) -> None:
        whole = type(self.size) is int and 0 <= self.size < 1 << 63
        if not (whole and safe_name(self.name) and _is_hash(self.blob, 40) and (self.sha256 is None or _is_hash(self.sha256, 64))):
            raise CheckpointError(f"{shown(self.where)}: the repository lists it as {shown(vars(self))}, which is no file. {START_AGAIN}")

    def is_content(self, content: Path | bytes, record: FileRecord) -> bool:
        """Whether content of this size and sha256 is what the repository lists; it is read only for git's id, of a file outside LFS."""
        if record.bytes != self.size:
            return False
        return record.sha256 == self.sha256 if self.sha256 else git_id(content) == self.blob

    def prove(self, content: Path | bytes) -> None:
        """CheckpointError unless fetched content is what the repository lists. OSError as raised."""
        record = file_record(content)
        if not self.is_content(content, record):
            listed = f"sha256 {self.sha256[:12]}" if self.sha256 else f"git id {self.blob[:12]}"
            raise CheckpointError(
                f"{self.where}: fetched {described(record)}, expected {self.size:,} bytes with {listed} as the repository lists it. "
                + START_AGAIN
            )


class RemoteRepo:
    """A model repository at one commit, or a folder of it."""

    def __init__(self, id: str, commit: str, *, token: str | bool | None = None, inner: str = "") -> None:
        self.id, self.commit, self.token = id, commit, token
        self.inner = inner  # the folder that config.json lies in
        self.requests = self.received = 0  # ranges asked for so far, and bytes of them that arrived
        self._lock = threading.Lock()

    @cached_property
    def files(self) -> Mapping[str, RemoteFile]:
        """The files it lists, by name. SourceError if it cannot be listed, or has more files than a model."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        start = f"{self.inner}/" if self.inner else ""
        with hub_errors(self._call):
            listed = HfApi().list_repo_tree(self.id, self.inner or None, recursive=True, revision=self.commit, token=self.token)
            entries = list(islice(listed, MAX_FILES + 1))
        if len(entries) > MAX_FILES:
            raise SourceError(f"{self.id} has more than {MAX_FILES:,} files, which is no model. Pass another repository.")
        named = [(entry.path.removeprefix(start), entry) for entry in entries if isinstance(entry, RepoFile)]
        return {
            name: RemoteFile(name, self.where(name), file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for name, file in named
        }

    def where(self, name: str) -> str:
        """How errors name a file."""
        return "/".join(filter(None, (self.id, self.inner, name)))

    def read(self, name: str, begin: int, end: int) -> bytes:
        """The bytes of a listed file from `begin` to before `end`; asked for again where the connection drops.

        Never reads beyond `end`, whatever the server sends. SourceError when the Hub refuses or is silent, CheckpointError
        naming the file when what it sends is not what was listed.
        """
        with hub_errors(self._call):
            for attempt in range(RETRIES + 1):
                try:
                    return b"".join(self._blocks(self.files[name], begin, end))
                except transport_error() as error:
                    if hasattr(error, "response") or attempt == RETRIES:  # an answer, for which huggingface_hub asked often enough
                        raise
                    time.sleep(WAIT_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def read_whole(self, name: str, limit: int) -> bytes:
        """A listed file of at most `limit` bytes, proved; CheckpointError if it has more."""
        file = self.files[name]
        if file.size > limit:
            raise CheckpointError(f"{file.where}: {file.size:,} bytes, at most {limit:,} are read of a file outside LFS.")
        content = self.read(name, 0, file.size)
        file.prove(content)
        return content

    def record(self, name: str, limit: int) -> FileRecord:
        """Size and sha256 of a listed file, which is read, up to `limit` bytes, only where it lies outside LFS."""
        file = self.files[name]
        return FileRecord(file.size, file.sha256) if file.sha256 else file_record(self.read_whole(name, limit))

    @property
    def _call(self) -> Call:
        return Call(self.id, self.commit, self.token)

    def _blocks(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        """A range as it arrives; nothing is asked for an empty one."""
        from huggingface_hub import constants, hf_hub_url, utils

        if begin >= end:
            return
        hub: Any = utils  # which exports these without saying so to type checkers
        url = hf_hub_url(self.id, file.name, subfolder=self.inner or None, revision=self.commit)
        headers = {**hub.build_hf_headers(token=self.token), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        self._count(1, 0)
        # What is raised is retried by `read`; for busy and ill servers huggingface_hub waits.
        with hub.http_stream_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
        ) as response:
            if response.status_code != 416:
                hub.hf_raise_for_status(response)
            _check_answer(file, begin, response)
            for block in response.iter_raw():
                self._count(0, len(block))
                yield block[: end - begin]
                if (begin := begin + len(block)) >= end:
                    return
        raise CheckpointError(f"{file.where}: ends at byte {begin:,}, expected {end:,}. {START_AGAIN}")

    def _count(self, requests: int, received: int) -> None:
        with self._lock:
            self.requests += requests
            self.received += received


def file_record(content: Path | bytes) -> FileRecord:
    """Size and sha256 of content. OSError as raised."""
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


def described(record: FileRecord) -> str:
    """A size and the beginning of a sha256, as differences show them."""
    return f"{record.bytes:,} bytes with sha256 {record.sha256[:12]}"


def _check_answer(file: RemoteFile, begin: int, response: Any) -> None:
    """CheckpointError unless a server sends the listed file, from `begin` on.

    response: of huggingface_hub's HTTP client, after redirects. What the Hub says of a file in LFS is in its redirect.
    """
    headers, status = response.headers, response.status_code
    if status == 416:
        raise CheckpointError(f"{file.where}: ends before byte {begin:,}, expected {file.size:,} bytes as listed. {START_AGAIN}")
    if (packed := headers.get("Content-Encoding", "identity")) != "identity":
        raise CheckpointError(f"{file.where}: the server sends it compressed ({shown(packed)}), expected its bytes. {START_AGAIN}")
    sent = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", headers.get("Content-Range", ""))
    start, total = (sent[1], sent[2]) if status == 206 and sent else ("0" if status == 200 else "-", headers.get("Content-Length", "none"))
    if start != str(begin):
        raise CheckpointError(
            f"{file.where}: asked for bytes from {begin:,} on, the server sent others (status {status}). "
            "It cannot be read in parts; download the repository first (hf download)."
        )
    if total != str(file.size):
        found = f"{int(total):,}" if re.fullmatch(r"[0-9]{1,19}", total) else shown(total)
        raise CheckpointError(f"{file.where}: is {found} bytes, expected {file.size:,} as the repository lists it. {START_AGAIN}")
    tags = [answer.headers["X-Linked-ETag"].strip('"') for answer in (*response.history, response) if "X-Linked-ETag" in answer.headers]
    if file.sha256 and tags and tags[0] != file.sha256:
        raise CheckpointError(f"{file.where}: is sent with the ETag {shown(tags[0])}, expected its sha256 {file.sha256}. {START_AGAIN}")


def _is_hash(text: object, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None
