"""The weight files of a checkpoint, in a folder or on the Hub: headers that agree with the index, and the fingerprint over them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import safe_name
from hf_layerprune.checkpoint.config import canonical_json
from hf_layerprune.checkpoint.copying import read_blocks, same_blocks
from hf_layerprune.checkpoint.files import read_object, refuse_twins, regular_file
from hf_layerprune.checkpoint.header import MAX_HEADERS_BYTES, Header, TensorSpan, parse_header, read_header
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError, shown
from hf_layerprune.hub.listing import RemoteRepo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FETCH = "Fetch it again (hf download ID --local-dir FOLDER) or correct the folder."
MAX_INDEX_BYTES = 64 << 20
SAMPLE_BYTES = 64 << 10
FIRST_BYTES = 192 << 10  # most headers and the first sample behind them: one request instead of three
THREADS = 8  # of requests to the Hub

TOO_MANY_HEADERS = f"the headers of all shards are more than {MAX_HEADERS_BYTES:,} bytes, which no model needs."
Range = tuple[int, int]  # begin and end, in bytes of a file


@dataclass(frozen=True)
class LocalShards:
    """The weight files of a folder."""

    folder: Path

    def names(self) -> Collection[str]:
        """The files that lie beside config.json."""
        try:
            return os.listdir(self.folder) if self.folder.is_dir() else ()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot list it: {error.strerror}. {to_read(error)}") from error

    def headers(self, names: Sequence[str], remedy: str) -> Iterator[tuple[str, Header]]:
        """The headers of weight files, by name, each proved before the next is read.

        CheckpointError, ending with `remedy` where a file is missing, and where all together are more than MAX_HEADERS_BYTES.
        """
        held = 0
        for name in names:
            header = read_header(regular_file(self.folder, name, remedy))
            if (held := held + header.data_start) > MAX_HEADERS_BYTES:
                raise CheckpointError(f"{self.folder / name}: {TOO_MANY_HEADERS} Pass another checkpoint.")
            yield name, header

    def parts(self, name: str, ranges: Iterable[Range]) -> Iterable[bytes]:
        """The bytes of a weight file in some of its `sampled_ranges`; CheckpointError naming the file if it cannot be read."""
        try:
            with (self.folder / name).open("rb") as file:
                for begin, end in ranges:
                    file.seek(begin)
                    yield file.read(end - begin)
        except OSError as error:
            raise CheckpointError(f"{self.folder / name}: cannot read it: {error.strerror}. {to_read(error)}") from error


class RemoteShards:
    """The same of a repository, of which headers and samples are read: at most five requests a file, in parallel."""

    def __init__(self, repo: RemoteRepo, folder: Path) -> None:
        self.repo = repo
        self._folder = folder  # where the files would lie if they were fetched; nothing is read there
        self._samples: dict[str, dict[Range, bytes]] = {}
        self._room = MAX_HEADERS_BYTES  # for the samples as well, which are held with the headers
        self._lock = threading.Lock()

    def names(self) -> Collection[str]:
        return [name for name in self.repo.files if "/" not in name]

    def headers(self, names: Sequence[str], remedy: str) -> Iterator[tuple[str, Header]]:
        if missing := [name for name in names if name not in self.repo.files]:
            raise CheckpointError(
                f"{self.repo.where(missing[0])} is missing at commit {self.repo.commit[:7]}. "
                "The repository is incomplete: tell its owner, or name another --revision."
            )
        pool = ThreadPoolExecutor(THREADS)
        try:
            yield from zip(names, pool.map(self._header, names), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def parts(self, name: str, ranges: Iterable[Range]) -> Iterable[bytes]:
        return [self._samples[name][part] for part in ranges]

    def _header(self, name: str) -> Header:
        size = self.repo.files[name].size
        held, at = b"", 0  # the first bytes of the file, and how many of them are read

        def read(count: int) -> bytes:
            nonlocal held, at
            begin, at = at, min(size, at + count)
            if at > len(held):
                held += self._fetch(name, len(held), min(size, max(FIRST_BYTES, at + SAMPLE_BYTES)))
            return held[begin:at]

        header = parse_header(read, size, Path(self.repo.where(name)))
        ranges = sampled_ranges(header)
        self._samples[name] = {(a, b): held[a:b] if b <= len(held) else self._fetch(name, a, b) for a, b in ranges}
        return moved(header, self._folder / name)

    def _fetch(self, name: str, begin: int, end: int) -> bytes:
        with self._lock:  # several threads ask at once; room is taken before bytes are asked for
            self._room -= end - begin
            if self._room < 0:
                raise CheckpointError(f"{self.repo.where(name)}: {TOO_MANY_HEADERS} Name another repository.")
        return self.repo.read(name, begin, end)


Shards = LocalShards | RemoteShards


def read_shards(folder: Path, shards: Shards) -> dict[str, Header]:
    """The headers of a checkpoint's weight files by name, in the order of names.

    The index in `folder` decides where there is one, but a single file beside it that holds the same tensors is taken instead,
    as transformers does. CheckpointError when a shard is missing or no regular file, a tensor stands in the index and not in its
    shard, in a shard and not in the index, or in two shards, or when the single file and the shards differ.
    """
    index = folder / INDEX
    if not index.exists():
        parts = some(name for name in shards.names() if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name))
        lost = f"There are shards, {parts}, but no {INDEX}, without which transformers cannot load them either. Fetch that file too."
        return dict(shards.headers([SINGLE], FETCH if parts.startswith("0") else lost))
    mapped = _weight_map(folder)
    placed: defaultdict[str, set[str]] = defaultdict(set)
    for tensor, name in mapped.items():
        placed[name].add(tensor)
    refuse_twins(sorted(placed), str(index))
    single = f"There is also a {SINGLE}: remove {INDEX} if that file is the whole model, else fetch the shard."
    found = {}
    both = placed.keys() != {SINGLE} and SINGLE in shards.names()
    for name, header in shards.headers(sorted(placed), single if both else FETCH):
        _check_places(name, header.tensors.keys(), placed[name], mapped, index)
        found[name] = header
    found = _without_copies(found, mapped, index, isinstance(shards, LocalShards))
    return _single_file(folder, shards, found) if both else found


def _without_copies(found: dict[str, Header], mapped: Mapping[str, str], index: Path, with_bytes: bool) -> dict[str, Header]:
    """The headers without the tensors that the index places in another shard, if they are the same there: transformers takes any.

    CheckpointError where they differ, or on the Hub, where their bytes are not read.
    """
    for name, header in found.items():
        copies = [tensor for tensor in header.tensors if mapped[tensor] != name]
        differ = [
            tensor for tensor in copies if not with_bytes or not _same(header.tensors[tensor], found[mapped[tensor]].tensors[tensor], True)
        ]
        if differ:
            advice = "Load the model with transformers and save it with save_pretrained, or remove the copy that is not of the model."
            both = f"{name} and {mapped[differ[0]]}"
            raise CheckpointError(f"{index}: {both} hold different tensors under one name, {some(differ)}. {advice}")
        if copies:
            kept = {tensor: span for tensor, span in header.tensors.items() if mapped[tensor] == name}
            found[name] = replace(header, tensors=kept)
    return found


def _single_file(folder: Path, shards: Shards, indexed: Mapping[str, Header]) -> dict[str, Header]:
    """The single file, which transformers loads where there is an index too; CheckpointError if its tensors are not those of the shards.

    On the Hub names, shapes and types are compared, in a folder the bytes as well.
    """
    advice = f"transformers loads {SINGLE}. Remove that file, or {INDEX} and its shards, whichever is not the model."
    try:
        found = dict(shards.headers([SINGLE], FETCH))
    except CheckpointError as error:
        raise CheckpointError(f"{error} There is also a complete {INDEX}, but {advice}") from error
    one, other = found[SINGLE].tensors, tensors_of(indexed)
    different = (name for name in sorted({*one, *other}) if not _same(one.get(name), other.get(name), isinstance(shards, LocalShards)))
    if (name := next(different, None)) is not None:
        raise CheckpointError(f"{folder}: {SINGLE} and the shards of {INDEX} hold different weights, first in {shown(name)}; {advice}")
    return found


def _same(one: TensorSpan | None, other: TensorSpan | None, with_bytes: bool) -> bool:
    """Whether two tensors are there and alike; with_bytes: in their bytes too."""
    if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return not with_bytes or same_blocks(read_blocks(one.file, one.begin, one.end), read_blocks(other.file, other.begin, other.end))


def tensors_of(headers: Mapping[str, Header]) -> dict[str, TensorSpan]:
    """The tensors of several weight files, file by file."""
    return {name: span for header in headers.values() for name, span in header.tensors.items()}


def is_whole(folder: Path) -> bool:
    """Whether the weight files of a snapshot in the Hub cache are all there: only whole ones are linked into it."""
    names = set(_weight_map(folder).values()) if (folder / INDEX).exists() else {SINGLE}
    return all((folder / name).is_file() for name in names)


def some(names: Iterable[str]) -> str:
    """The first five names, in order, and how many there are: `3: 'a', 'b', 'c'`."""
    ordered = sorted(names)
    return f"{len(ordered):,}: {', '.join(map(shown, ordered[:5]))}{', …' if len(ordered) > 5 else ''}"


def moved(header: Header, file: Path) -> Header:
    """The same header, of a file at another place."""
    return replace(header, tensors={name: replace(span, file=file) for name, span in header.tensors.items()})


def fingerprint(config: Mapping[str, Any], headers: Mapping[str, Header], shards: Shards) -> str:
    """What a checkpoint is known by: cheap enough to take before any work, and telling two fine-tunings apart.

    sha256, in hexadecimal, over the config (keys sorted, no spaces) and, shard by shard in the order of their names, the header's
    JSON as it stands in the file and four samples of 64 KiB of its n data bytes, at 0, n // 3, 2n // 3 and max(0, n - 65536), each
    cut at the end of the data.
    """
    digest = hashlib.sha256(canonical_json(config))
    for name in sorted(headers):
        for part in shards.parts(name, sampled_ranges(headers[name])):
            digest.update(part)
    return digest.hexdigest()


def sampled_ranges(header: Header) -> tuple[Range, ...]:
    """The five ranges of a file that its fingerprint is taken over."""
    start, size = header.data_start, header.size
    data = size - start
    begins = [start + offset for offset in (0, data // 3, 2 * data // 3, max(0, data - SAMPLE_BYTES))]
    return ((8, start), *((begin, min(begin + SAMPLE_BYTES, size)) for begin in begins))


def tensor_digest(tensors: Mapping[str, TensorSpan]) -> str:
    """sha256 over the first 4 KiB of every tensor, by name: what tells two fine-tunings apart that `fingerprint` may not.

    The fingerprint can be taken over the network in a few requests and reads four places of a shard; this reads every
    tensor, on a local disk. Raises CheckpointError naming the shard that cannot be read.
    """
    digest = hashlib.sha256()
    by_file = sorted(tensors.items(), key=lambda item: (item[1].file, item[1].begin))
    for path, group in groupby(by_file, key=lambda item: item[1].file):
        try:
            with path.open("rb", buffering=0) as file:
                for name, span in group:
                    digest.update(f"{name}\0".encode())
                    digest.update(os.pread(file.fileno(), min(4096, span.nbytes), span.begin))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}. {to_read(error)}") from error
    return digest.hexdigest()


def _weight_map(folder: Path) -> dict[str, str]:
    index = read_object(folder, INDEX, "weight index", MAX_INDEX_BYTES, FETCH)
    mapped = index.get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError(f"{folder / INDEX}: 'weight_map' is {shown(mapped)}, expected tensor names and their shards. {FETCH}")
    for tensor, shard in mapped.items():
        if not safe_name(shard):
            raise CheckpointError(
                f"{folder / INDEX}: {shown(tensor)} is mapped to {shown(shard)}, outside the checkpoint or no portable file name. "
                "The index is damaged or hostile; download the checkpoint again."
            )
    return mapped


def _check_places(name: str, found: Set[str], placed: Set[str], mapped: Mapping[str, str], index: Path) -> None:
    """Compare the tensors of one shard with those that the index places there. No `-` of sets here: it goes through all of `mapped`."""
    if lost := [tensor for tensor in placed if tensor not in found]:
        raise CheckpointError(f"{index}: {name} lacks tensors that the index places there, {some(lost)}. {FETCH}")
    if unknown := [tensor for tensor in found if tensor not in mapped]:
        raise CheckpointError(f"{index}: {name} holds tensors that the index does not name, {some(unknown)}. {FETCH}")
