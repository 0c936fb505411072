"""Find the weight files of a checkpoint and prove that the index and their headers tell the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_layerprune.checkpoint.folder import read_object, refuse_twins, regular_file, safe_name
from hf_layerprune.checkpoint.header import Header, read_header
from hf_layerprune.errors import CheckpointError, shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FETCH = "Fetch it again (hf download ID --local-dir FOLDER) or correct the folder."
MAX_INDEX_BYTES = 64 << 20


def read_shards(folder: Path) -> dict[str, Header]:
    """The headers of a checkpoint's weight files by name, in the order of names.

    The index decides where there is one. CheckpointError when a shard is missing or no regular file, or a tensor stands
    in the index and not in its shard, in a shard and not in the index, or in two shards.
    """
    if not (folder / INDEX).exists():
        regular_file(folder, SINGLE, FETCH)
        return {SINGLE: read_header(folder / SINGLE)}
    mapped = _weight_map(folder)
    names = sorted(set(mapped.values()))
    refuse_twins(names, f"{folder / INDEX}")
    shards = {name: read_header(regular_file(folder, name, _remedy(folder))) for name in names}
    _check_places(shards, mapped, folder / INDEX)
    return shards


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
