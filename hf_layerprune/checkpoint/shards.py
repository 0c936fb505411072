"""Find the weight files of a checkpoint and prove that the index and their headers tell the same."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hf_layerprune.artifacts.folder import safe_name
from hf_layerprune.checkpoint.fingerprint import Bytes, Ranges
from hf_layerprune.checkpoint.folder import read_object, refuse_twins, regular_file
from hf_layerprune.checkpoint.header import MAX_HEADERS_BYTES, Header, read_header
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FETCH = "Fetch it again (hf download ID --local-dir FOLDER) or correct the folder."
MAX_INDEX_BYTES = 64 << 20

TOO_MANY_HEADERS = f"the headers of all shards are more than {MAX_HEADERS_BYTES:,} bytes, which no model needs."
CheckHeader = Callable[[str, Header], None]  # of a weight file of this name


class ShardReader(Protocol):
    """Where weight files are read from: a folder, or a repository on the Hub."""

    def names(self) -> Collection[str]:
        """The files that lie beside config.json."""

    def headers(self, names: Sequence[str], remedy: str, check: CheckHeader = lambda name, header: None) -> dict[str, Header]:
        """The headers of weight files, each proved and given to `check` before the next is asked for.

        CheckpointError, ending with `remedy` where a file is missing, and where all together are more than MAX_HEADERS_BYTES.
        """

    def parts(self, name: str, ranges: Ranges) -> Iterable[Bytes]:
        """The bytes of a weight file in each of some ranges; CheckpointError naming the file if it cannot be read."""


@dataclass(frozen=True)
class LocalShards:
    """The weight files of a folder."""

    folder: Path

    def names(self) -> Collection[str]:
        try:
            return os.listdir(self.folder) if self.folder.is_dir() else ()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot list it: {error.strerror}. {to_read(error)}") from error

    def headers(self, names: Sequence[str], remedy: str, check: CheckHeader = lambda name, header: None) -> dict[str, Header]:
        found: dict[str, Header] = {}
        held = 0
        for name in names:
            found[name] = header = read_header(regular_file(self.folder, name, remedy))
            check(name, header)
            if (held := held + header.data_start) > MAX_HEADERS_BYTES:
                raise CheckpointError(f"{self.folder / name}: {TOO_MANY_HEADERS} Pass another checkpoint.")
        return found

    def parts(self, name: str, ranges: Ranges) -> Iterable[Bytes]:
        try:
            with (self.folder / name).open("rb") as file:
                for begin, end in ranges:
                    file.seek(begin)
                    yield file.read(end - begin)
        except OSError as error:
            raise CheckpointError(f"{self.folder / name}: cannot read it: {error.strerror}. {to_read(error)}") from error


def read_shards(folder: Path, reader: ShardReader) -> dict[str, Header]:
    """The headers of a checkpoint's weight files by name, in the order of names.

    The index in `folder` decides where there is one. CheckpointError when a shard is missing or no regular file, or a tensor
    stands in the index and not in its shard, in a shard and not in the index, or in two shards.
    """
    if not (folder / INDEX).exists():
        return reader.headers([SINGLE], FETCH)
    mapped = _weight_map(folder)
    placed: defaultdict[str, set[str]] = defaultdict(set)
    for tensor, name in mapped.items():
        placed[name].add(tensor)
    refuse_twins(sorted(placed), f"{folder / INDEX}")

    def check(name: str, header: Header) -> None:
        _check_places(name, header.tensors.keys(), placed[name], mapped, folder / INDEX)

    return reader.headers(sorted(placed), _remedy(folder), check)


def is_whole(folder: Path) -> bool:
    """Whether the weight files of a snapshot in the Hub cache are all there: only whole ones are linked into it."""
    names = set(_weight_map(folder).values()) if (folder / INDEX).exists() else {SINGLE}
    return all((folder / name).is_file() for name in names)


def some(names: Iterable[str]) -> str:
    """The first five names, in order, and how many there are: `3: 'a', 'b', 'c'`."""
    ordered = sorted(names)
    return f"{len(ordered):,}: {', '.join(map(shown, ordered[:5]))}{', …' if len(ordered) > 5 else ''}"


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


def _remedy(folder: Path) -> str:
    if (folder / SINGLE).exists():
        return f"There is also a {SINGLE}: remove {INDEX} if that file is the whole model, else fetch the shard."
    return FETCH


def _check_places(name: str, found: Set[str], placed: Set[str], mapped: Mapping[str, str], index: Path) -> None:
    """Compare the tensors of one shard with those that the index places there. No `-` of sets here: it goes through all of `mapped`."""
    if lost := [tensor for tensor in placed if tensor not in found]:
        raise CheckpointError(f"{index}: {name} lacks tensors that the index places there, {some(lost)}. {FETCH}")
    if twice := [tensor for tensor in found if mapped.get(tensor, name) != name]:
        raise CheckpointError(f"{index}: {name} holds tensors that the index places in another shard, {some(twice)}. {FETCH}")
    if unknown := [tensor for tensor in found if tensor not in mapped]:
        raise CheckpointError(f"{index}: {name} holds tensors that the index does not name, {some(unknown)}. {FETCH}")
