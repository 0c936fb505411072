"""Find the weight files of a checkpoint and prove that the index and their headers tell the same."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hf_layerprune.checkpoint.fingerprint import Bytes, Ranges
from hf_layerprune.checkpoint.folder import read_object, refuse_twins, regular_file, safe_name
from hf_layerprune.checkpoint.header import Header, read_header
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FETCH = "Fetch it again (hf download ID --local-dir FOLDER) or correct the folder."
MAX_INDEX_BYTES = 64 << 20


class ShardReader(Protocol):
    """Where weight files are read from: a folder, or a repository on the Hub."""

    def names(self) -> Collection[str]:
        """The files that lie beside config.json."""

    def headers(self, names: Sequence[str], remedy: str) -> dict[str, Header]:
        """The checked headers of weight files; CheckpointError, ending with `remedy` where one is missing."""

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

    def headers(self, names: Sequence[str], remedy: str) -> dict[str, Header]:
        return {name: read_header(regular_file(self.folder, name, remedy)) for name in names}

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
    names = sorted(set(mapped.values()))
    refuse_twins(names, f"{folder / INDEX}")
    shards = reader.headers(names, _remedy(folder))
    _check_places(shards, mapped, folder / INDEX)
    return shards


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


def _check_places(shards: Mapping[str, Header], mapped: Mapping[str, Any], index: Path) -> None:
    for name, header in shards.items():
        if lost := [tensor for tensor, shard in mapped.items() if shard == name and tensor not in header.tensors]:
            raise CheckpointError(f"{index}: {name} lacks tensors that the index places there, {some(lost)}. {FETCH}")
        if twice := [tensor for tensor in header.tensors if mapped.get(tensor, name) != name]:
            raise CheckpointError(f"{index}: {name} holds tensors that the index places in another shard, {some(twice)}. {FETCH}")
        if unknown := header.tensors.keys() - mapped.keys():
            raise CheckpointError(f"{index}: {name} holds tensors that the index does not name, {some(unknown)}. {FETCH}")
