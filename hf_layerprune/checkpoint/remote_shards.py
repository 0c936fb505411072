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
from hf_layerprune.checkpoint.shards import TOO_MANY_HEADERS, CheckHeader, is_whole
from hf_layerprune.checkpoint.source import DESCRIPTION, ResolvedSource, resolve
from hf_layerprune.errors import CheckpointError, UsageError
from hf_layerprune.hub.listing import RemoteFile, RemoteRepo

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
        self._held = b""
        self._at = 0

    def read(self, count: int) -> bytes:
        """The next bytes, fewer where the file ends."""
        begin, end = self._at, min(self.file.size, self._at + count)
        if end > len(self._held):
            self._held += self._fetch(len(self._held), min(self.file.size, max(FIRST_BYTES, end + SAMPLE_BYTES)))
        self._at = end
        return self._held[begin:end]

    def part(self, begin: int, end: int) -> bytes:
        """Any bytes; those that are not held are asked for, and not kept."""
        return self._held[begin:end] if end <= len(self._held) else self._fetch(begin, end)

    def _fetch(self, begin: int, end: int) -> bytes:
        self._take_room(self.file.name, end - begin)
        return self._repo.read(self.file.name, begin, end)


def moved(header: Header, file: Path) -> Header:
    """The same header, of a file at another place."""
    return replace(header, tensors={name: replace(span, file=file) for name, span in header.tensors.items()})


@dataclass(frozen=True)
class Reading:
    """What was read over the network to open a checkpoint."""

    files: tuple[str, ...]  # small files that were fetched
    headers: int  # number of weight files whose headers were read
    bytes: int  # of both
    requests: int  # for ranges


def open_without_weights(source: str, *, subfolder: str | None = None, **place: Any) -> tuple[Checkpoint, Reading | None]:
    """The checkpoint that `source` names, its weights left where they are, and what was read over the network, if anything.

    A folder, and a repository whose weights lie in the cache, are opened there. Arguments and errors are those of `resolve`.
    """
    found = resolve(source, subfolder=subfolder, weights=False, small=DESCRIPTION, **place)
    if found.repo is None or is_whole(found.path):
        return Checkpoint.open(found.path, found.id, found.commit), None
    if place.get("local_files_only"):
        resolve(source, subfolder=subfolder, **place)  # raises: the cache lacks the weights
    checkpoint = open_remote(found.repo, found)
    fetched = sum((found.path / name).stat().st_size for name in found.fetched)
    return checkpoint, Reading(found.fetched, len(checkpoint.shards), fetched + found.repo.received, found.repo.requests)


def open_remote(repo: RemoteRepo, found: ResolvedSource) -> Checkpoint:
    """The checkpoint of a repository whose small files were fetched, as `Checkpoint.open` opens a folder."""
    return Checkpoint.open(found.path, found.id, found.commit, RemoteShards(repo, found.path))


def open_to_stream(source: str, *, check: Callable[[ModelFacts], object] = lambda facts: None, **place: Any) -> Checkpoint:
    """The checkpoint of a Hub id with all its files but the weights, and its `repo` to stream those from.

    `repo` is None where the weights lie in the cache already. UsageError for a folder, which needs no streaming.
    """
    found = resolve(source, weights=False, check=check, **place)
    if found.repo is None:
        raise UsageError(f"--stream is for a Hub id, and {source} is on this disk: leave it out.")
    if is_whole(found.path):
        return Checkpoint.open(found.path, found.id, found.commit)
    if place.get("local_files_only"):
        raise UsageError(f"--stream fetches weights and --local-files-only forbids it; the cache lacks those of {source}. Leave one out.")
    return replace(open_remote(found.repo, found), repo=found.repo)
