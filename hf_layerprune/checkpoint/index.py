"""A checkpoint on disk: opened by reading its config and headers, never its tensors, and proved complete."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.folder import CONFIG, RECORDS
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.checkpoint.completeness import check_tensors
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.files import refuse_twins
from hf_layerprune.checkpoint.header import Header, TensorSpan
from hf_layerprune.checkpoint.quantized import QuantizedError, described, is_stale
from hf_layerprune.checkpoint.recognise import refuse_foreign
from hf_layerprune.checkpoint.shards import INDEX, LocalShards, Shards, fingerprint, read_shards, some, tensor_digest, tensors_of
from hf_layerprune.checkpoint.side_files import list_side_files
from hf_layerprune.errors import FamilyError, LayerPruneError, ModelError, shown
from hf_layerprune.families import Family, family_for, headless
from hf_layerprune.families.facts import is_depth, model_facts, quantization_of
from hf_layerprune.families.family import find
from hf_layerprune.hub.listing import RemoteRepo


@dataclass(frozen=True, repr=False)
class Checkpoint(Readable):
    """What is known of a checkpoint without reading its tensors."""

    path: Path
    config: dict[str, Any]  # config.json as parsed, keys in the file's order
    family: Family
    facts: ModelFacts
    shards: Mapping[str, Header]  # by file name, in the order of names
    tensors: Mapping[str, TensorSpan]  # shard by shard, in the order of bytes
    side_files: tuple[Path, ...]  # paths within the folder of what else belongs to the model
    notes: tuple[str, ...]  # what a person should know and need not act on, one sentence each
    repo: RemoteRepo | None = None  # where the weights are streamed from, None where they are on this disk
    borrowed: Mapping[Path, Path] = field(default_factory=dict)  # side files that lie elsewhere, and where: those of another model
    lender: str = ""  # which model that is

    @classmethod
    def open(cls, path: Path, id: str, commit: str | None = None, reader: Shards | None = None) -> Checkpoint:
        """Read and prove a checkpoint folder; `id` and `commit` are the name it goes by, `reader` is where its weight files are.

        Raises FamilyError where the config cannot be trusted, SourceError where the folder is something else than a
        safetensors model, CheckpointError where files, index, headers and config do not fit together.
        """
        reader = reader or LocalShards(path)
        refuse_foreign(path, reader.names())
        config, where = read_config(path), str(path / CONFIG)
        family = family_for(config, where)
        # The config is checked before the shards are read: its message is the more useful one. The fingerprint follows.
        try:
            model_facts(config, SourceRef(id, commit, ""), where)
        except FamilyError as error:
            raise _refined(error, SourceRef(id, commit, ""), family, config, path, reader) from error
        shards = read_shards(path, reader)
        tensors = tensors_of(shards)
        facts = model_facts(config, SourceRef(id, commit, fingerprint(config, shards, reader)), where)
        notes = check_tensors(family, config, facts.layers, tensors, path)
        side_files, weights = list_side_files(path)
        folders = (side.parts[0] for side in side_files)  # our own is not carried along, and must not be mistaken for one that is
        refuse_twins([RECORDS, *shards, *map(str, side_files), *folders, CONFIG], str(path))
        if left := set(weights) - shards.keys() - {INDEX}:
            notes += (f"weight files that are no part of the checkpoint are left out, {some(left)}",)
        return cls(path, config, family, facts, shards, tensors, side_files, notes)

    def __repr__(self) -> str:
        size = f"{self.parameters:,} parameters in {len(self.tensors)} tensors"
        return one_line(self, shown(self.id), self.facts.family, f"{self.facts.layers} decoder layers", size, shown(str(self.path)))

    def refuse_headless(self, done: str) -> None:
        """ModelError for a model without a head, which cannot generate. done: "evaluated" or the like."""
        if headless(self.family, self.config):
            name = self.config["architectures"][0]
            raise ModelError(f"{self.path}: {name} has no head, and generates no text: it can be pruned, but not {done}.")

    def file(self, side_file: Path) -> Path:
        """Where a side file lies."""
        return self.borrowed.get(side_file, self.path / side_file)

    @property
    def source(self) -> SourceRef:
        return self.facts.source

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def commit(self) -> str | None:
        return self.source.commit

    @cached_property
    def tensor_digest(self) -> str:
        """sha256 over the beginning of every tensor, read once."""
        return tensor_digest(self.tensors)

    @property
    def tied(self) -> bool:
        """Whether the output layer is the input embedding: no tensor of its own is on disk."""
        return not any(layout.head in self.tensors for layout in self.family.layouts)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.size()[1]

    @property
    def parameters(self) -> int:
        """Number of parameters; tied embeddings count once."""
        return self.size()[0]

    def size(self, drop: Collection[int] = ()) -> tuple[int, int]:
        """Parameters and bytes that are left once the layers `drop` are gone."""
        places = ((self.family.split(name), span) for name, span in self.tensors.items())
        kept = [span for place, span in places if place is None or place[0] not in drop]
        return sum(math.prod(span.shape) for span in kept), sum(span.nbytes for span in kept)


def _refined(error: FamilyError, source: SourceRef, family: Family, config: Mapping[str, Any], path: Path, reader: Shards) -> FamilyError:
    """The error of a config that has no number of layers, or is of a quantized model, with what the tensors say of it."""
    quantized, depth = quantization_of(family, config), find(config, family.depth_path(config))
    if is_depth(depth) and not quantized:
        return error
    try:
        tensors = tensors_of(read_shards(path, reader))
    except LayerPruneError:  # one fault at a time: the config's
        return error
    if not quantized:
        return FamilyError(f"{error} The tensors hold {len({place[0] for name in tensors if (place := family.split(name))}):,} layers.")
    if is_stale(tensors):
        return FamilyError(f"{path / CONFIG}: it has a quantization_config, but no tensor is quantized: a stale one. Remove that key.")
    return QuantizedError(str(error), described(source.id, family, config, tensors))
