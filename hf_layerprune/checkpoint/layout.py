"""Decide which tensor goes where in the new checkpoint: names, shards and header bytes; and write a shard so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.checkpoint.copying import HashedFile, read_blocks
from hf_layerprune.checkpoint.header import DTYPE_BITS, TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import SINGLE
from hf_layerprune.errors import CheckpointError, shown
from hf_layerprune.families import Family

Tensors = Mapping[str, TensorSpan]  # by their new names
Metadata = Mapping[str, str]
Progress = Callable[[int], None]
DEFAULT_METADATA: Metadata = {"format": "pt"}  # loaders refuse a file without it
# Bytes, a cache line. Loaders use a mapped file's bytes as they lie, and kernels choose their path by a pointer's alignment:
# equal weights at differently aligned places were seen to give logits 7e-7 apart. The format itself asks for 8 of a header.
ALIGNMENT = 64


@dataclass(frozen=True)
class NewShard:
    """A weight file to be written: its name, its header and, in the order of their bytes, its tensors' new names and sources."""

    name: str
    header: bytes
    tensors: Tensors

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(span.nbytes for span in self.tensors.values())


def kept_names(family: Family, keep: Sequence[int], names: Iterable[str]) -> dict[str, str]:
    """New name -> name in the source, for every tensor that stays. Only decoder layers, by the family's prefixes, are renumbered."""
    position = {layer: index for index, layer in enumerate(keep)}
    kept = {}
    for name in names:
        place = family.split(name)
        if place is None:
            kept[name] = name
        elif place[0] in position:
            kept[family.renumbered(name, position[place[0]])] = name
    return kept


def plan_shards(checkpoint: Checkpoint, keep: tuple[int, ...], max_shard_size: int | None) -> tuple[NewShard, ...]:
    """The weight files of the pruned checkpoint: the source's boundaries, or shards of at most `max_shard_size` bytes of tensors.

    A shard that loses all its tensors is left out. One shard is called model.safetensors, several are numbered. A tensor
    larger than the limit has a shard of its own.
    """
    if max_shard_size is None:
        groups = _by_source(checkpoint, keep)
    else:
        metadata = _common_metadata(checkpoint)
        groups = [(metadata, tensors) for tensors in _by_size(checkpoint, keep, max_shard_size)]
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    return tuple(_shard(name, tensors, metadata or DEFAULT_METADATA) for name, (metadata, tensors) in zip(names, groups, strict=True))


def _by_source(checkpoint: Checkpoint, keep: tuple[int, ...]) -> list[tuple[Metadata, Tensors]]:
    groups = []
    for header in checkpoint.shards.values():
        kept = kept_names(checkpoint.family, keep, header.tensors)
        groups.append((header.metadata or {}, {new: header.tensors[old] for new, old in kept.items()}))
    return [group for group in groups if group[1]]


def _by_size(checkpoint: Checkpoint, keep: tuple[int, ...], limit: int) -> list[Tensors]:
    groups: list[dict[str, TensorSpan]] = []
    filled = 0
    for new, old in kept_names(checkpoint.family, keep, checkpoint.tensors).items():
        span = checkpoint.tensors[old]
        if not groups or filled + span.nbytes > limit:
            groups.append({})
            filled = 0
        groups[-1][new] = span
        filled += span.nbytes
    return list(groups)


def _common_metadata(checkpoint: Checkpoint) -> Metadata:
    """What all shards' `__metadata__` say together; new shards that mix them can only carry the union."""
    merged: dict[str, str] = {}
    for name, header in checkpoint.shards.items():
        for key, value in (header.metadata or {}).items():
            if merged.setdefault(key, value) != value:
                place = f"{checkpoint.path / name}: '__metadata__'"
                raise CheckpointError(f"{place} differs from the other shards' in {shown(key)}. Leave out --max-shard-size.")
    return merged


def _shard(name: str, tensors: Tensors, metadata: Metadata) -> NewShard:
    ordered = dict(sorted(tensors.items(), key=_place))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for new, span in ordered.items():
        header[new] = {"dtype": span.dtype, "shape": list(span.shape), "data_offsets": [offset, offset + span.nbytes]}
        offset += span.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return NewShard(name, len(text).to_bytes(8, "little") + text, ordered)


def _place(item: tuple[str, TensorSpan]) -> tuple[bool, int]:
    """Sorts tensors so that each begins aligned: at 64 bytes where the sizes allow it, else to its type.

    Sizes that are whole cache lines come first, so that none pushes the next one off its line; then the widest types, as
    safetensors itself writes. Otherwise the source's order stays: a shard is then read in one sweep, or two.
    """
    span = item[1]
    return span.nbytes % ALIGNMENT > 0, -DTYPE_BITS[span.dtype]


def write_shard(path: Path, shard: NewShard, progress: Progress | None = None) -> FileRecord:
    """Write a weight file by copying its tensors' bytes from their sources; `progress` is told how many, block by block."""
    with HashedFile(path) as file:
        file.write(shard.header)
        for place in joined(shard.tensors.values()):
            for block in read_blocks(*place):
                file.write(block)
                if progress:
                    progress(len(block))
    return file.record


def joined(spans: Iterable[TensorSpan]) -> Iterator[tuple[Path, int, int]]:
    """File, begin and end of what these tensors, in this order, cover; neighbours in a file are one range: fewer, fuller blocks."""
    run: tuple[Path, int, int] | None = None
    for span in spans:
        if run and run[0] == span.file and run[2] == span.begin:
            run = (*run[:2], span.end)
        elif span.nbytes:
            if run:
                yield run
            run = (span.file, span.begin, span.end)
    if run:
        yield run
