"""Open a checkpoint on the Hub without its weights: headers, and what the fingerprint is taken over, by ranges."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.checkpoint.fingerprint import SAMPLE_BYTES, Bytes, Ranges, sampled_ranges
from hf_layerprune.checkpoint.header import MAX_HEADERS_BYTES, Header, parse_header
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.remote import RemoteRepo
from hf_layerprune.checkpoint.remote_files import RemoteFile
from hf_layerprune.checkpoint.shards import TOO_MANY_HEADERS, CheckHeader, is_whole
from hf_layerprune.checkpoint.source import DESCRIPTION, ResolvedSource, resolve
from hf_layerprune.errors import CheckpointError, UsageError

FIRST_BYTES = 192 << 10  # most headers and the first block behind them: one request instead of three
THREADS = 8


class RemoteShards:
    """The weight files of a repository, of which headers and samples are read: at most five requests a file, in parallel.

    folder: where the files would lie if they were fetched; there is nothing to read there, so nothing wrong is read.
    """

    def __init__(self, repo: RemoteRepo, folder: Path) -> None:
        self.repo = repo
        self._folder = folder
        self._samples: dict[str, dict[tuple[int, int], Bytes]] = {}
        self._room = MAX_HEADERS_BYTES  # for the blocks as well, which are held with the headers
        self._lock = threading.Lock()

    def names(self) -> Collection[str]:
        return [name for name in self.repo.files if "/" not in name]

    def headers(self, names: Sequence[str], remedy: str, check: CheckHeader = lambda name, header: None) -> dict[str, Header]:
        if missing := [name for name in names if name not in self.repo.files]:
            raise CheckpointError(
                f"{self.repo.where(missing[0])} is missing at commit {self.repo.commit[:7]}. "
                "The repository is incomplete: tell its owner, or name another --revision."
            )
        found: dict[str, Header] = {}
        pool = ThreadPoolExecutor(THREADS)
        try:
            for name, header in zip(names, pool.map(self._header, names), strict=True):
                check(name, header)
                found[name] = header
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def parts(self, name: str, ranges: Ranges) -> Iterable[Bytes]:
        return [self._samples[name][part] for part in ranges]

    def _header(self, name: str) -> Header:
        beginning = _Beginning(self.repo, self.repo.files[name], self._take_room)
        header = parse_header(beginning.read, beginning.file.size, Path(self.repo.where(name)))
        self._samples[name] = {(begin, end): beginning.part(begin, end) for begin, end in sampled_ranges(header)}
        return moved(header, self._folder / name)

    def _take_room(self, name: str, count: int) -> None:
        """Reserve room for bytes before they are asked for: several threads ask at once."""
        with self._lock:
            self._room -= count
            if self._room < 0:
                raise CheckpointError(f"{self.repo.where(name)}: {TOO_MANY_HEADERS} Name another repository.")


class _Beginning:
    """The first bytes of a remote file, held and extended as far as they are asked for. take_room: called before bytes are fetched."""

    def __init__(self, repo: RemoteRepo, file: RemoteFile, take_room: Callable[[str, int], None]) -> None:
        self.file = file
        self._repo = repo
        self._take_room = take_room
        self._held = bytearray()
        self._at = 0

    def read(self, count: int) -> bytes:
        """The next bytes, fewer where the file ends."""
        end = min(self.file.size, self._at + count)
        if end > len(self._held):
            self._extend(min(self.file.size, max(FIRST_BYTES, end + SAMPLE_BYTES)))
        found = bytes(self._held[self._at : end])
        self._at = end
        return found

    def part(self, begin: int, end: int) -> Bytes:
        """Any bytes; those that are not held are asked for, and not kept."""
        if end <= len(self._held):
            return bytes(self._held[begin:end])
        self._take_room(self.file.name, end - begin)
        return b"".join(self._repo.read(self.file.name, begin, end))

    def _extend(self, end: int) -> None:
        self._take_room(self.file.name, end - len(self._held))
        for block in self._repo.read(self.file.name, len(self._held), end):
            self._held += block


def moved(header: Header, file: Path) -> Header:
    """The same header, of a file at another place."""
    return replace(header, tensors={name: replace(span, file=file) for name, span in header.tensors.items()})


@dataclass(frozen=True)
class Reading:
    """What was read over the network: the small files, how many weight files' headers, bytes of both, requests for ranges."""

    files: tuple[str, ...]
    headers: int
    bytes: int
    requests: int


def open_without_weights(source: str, *, subfolder: str | None = None, **place: Any) -> tuple[Checkpoint, Reading | None]:
    """The checkpoint that `source` names, its weights left where they are, and what was read over the network, if anything.

    A folder, and a repository whose weights lie in the cache, are opened there. Arguments and errors are those of `resolve`.
    """
    found = resolve(source, subfolder=subfolder, weights=False, small=DESCRIPTION, **place)
    if found.commit is None or is_whole(found.path):
        return Checkpoint.open(found.path, found.id, found.commit), None
    if place.get("local_files_only"):
        resolve(source, subfolder=subfolder, **place)  # raises: the cache lacks the weights
    repo = RemoteRepo(found.id, found.commit, token=place.get("token"), inner=subfolder or "")
    checkpoint = open_remote(repo, found)
    fetched = sum((found.path / name).stat().st_size for name in found.fetched)
    return checkpoint, Reading(found.fetched, len(checkpoint.shards), fetched + repo.received, repo.requests)


def open_remote(repo: RemoteRepo, found: ResolvedSource) -> Checkpoint:
    """The checkpoint of a repository whose small files were fetched, as `Checkpoint.open` opens a folder."""
    return Checkpoint.open(found.path, found.id, found.commit, RemoteShards(repo, found.path))


def open_to_stream(
    source: str, *, check: Callable[[ModelFacts], object] = lambda facts: None, **place: Any
) -> tuple[Checkpoint, RemoteRepo | None]:
    """The checkpoint of a Hub id with all its files but the weights, and the repository to stream those from.

    No repository where the weights lie in the cache already. UsageError for a folder, which needs no streaming.
    """
    found = resolve(source, weights=False, check=check, **place)
    if found.commit is None:
        raise UsageError(f"--stream is for a Hub id, and {source} is on this disk: leave it out.")
    if is_whole(found.path):
        return Checkpoint.open(found.path, found.id, found.commit), None
    if place.get("local_files_only"):
        raise UsageError(f"--stream fetches weights and --local-files-only forbids it; the cache lacks those of {source}. Leave one out.")
    repo = RemoteRepo(found.id, found.commit, token=place.get("token"), inner=place.get("subfolder") or "")
    return open_remote(repo, found), repo
