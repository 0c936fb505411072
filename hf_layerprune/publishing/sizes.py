"""Parameters and bytes before and after, from config and manifest, so that they can be told without the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.families import Family, family_for
from hf_layerprune.families.family import find, numbered

ITEM_BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
SLACK = 0.02  # of a weight file: what its header and alignment may take; another type of numbers takes far more


@dataclass(frozen=True)
class Sizes:
    """parameters, bytes: of all tensors, tied embeddings once, after; a_layer, bytes_a_layer: of one decoder layer; None where
    it does not follow from the records; dropped: layers that went; fingerprint: of the weights, None if they are not here."""

    parameters: int
    a_layer: int | None
    bytes: int | None
    bytes_a_layer: int | None
    dropped: int
    fingerprint: str | None

    @property
    def parameters_before(self) -> int | None:
        return None if self.a_layer is None else self.parameters + self.dropped * self.a_layer

    @property
    def bytes_before(self) -> int | None:
        return None if self.bytes is None or self.bytes_a_layer is None else self.bytes + self.dropped * self.bytes_a_layer


def sizes_of(folder: Path, config: Mapping[str, Any], manifest: Manifest, dropped: int) -> Sizes:
    """The sizes of a folder of ours, from its headers if all its weight files are there, else as transformers
    builds the model from its config.

    Raises CheckpointError, FamilyError or ModelError where the weights that are there do not fit, or the config cannot be trusted.
    """
    files = [name for name in manifest.files if name.endswith(".safetensors")]
    if any((folder / name).exists() for name in files):
        return _from_headers(Checkpoint.open(folder, folder.name), dropped)
    family = family_for(config, str(folder))
    from hf_layerprune.models.loading import parameter_shapes

    counts = {name: math.prod(shape) for name, shape in parameter_shapes(config, str(folder)).items()}
    total, item = sum(counts.values()), ITEM_BYTES.get(str(_dtype(config, family)))
    on_disk = sum(manifest.files[name].bytes for name in files)
    one_type = item is not None and item * total <= on_disk <= item * total * (1 + SLACK)
    layers: dict[int, int] = {}
    for name, count in counts.items():
        if place := numbered(name, f"{family.module}."):
            layers[place[0]] = layers.get(place[0], 0) + count
    a_layer = _same(layers)
    if not one_type or item is None:
        return Sizes(total, a_layer, None, None, dropped, None)
    return Sizes(total, a_layer, item * total, None if a_layer is None else item * a_layer, dropped, None)


def _from_headers(checkpoint: Checkpoint, dropped: int) -> Sizes:
    whole = checkpoint.size()
    without = [checkpoint.size((layer,)) for layer in range(checkpoint.facts.layers)]
    a_layer = _same({layer: whole[0] - rest[0] for layer, rest in enumerate(without)})
    bytes_a_layer = _same({layer: whole[1] - rest[1] for layer, rest in enumerate(without)})
    return Sizes(whole[0], a_layer, whole[1], bytes_a_layer, dropped, checkpoint.source.fingerprint)


def _dtype(config: Mapping[str, Any], family: Family) -> object:
    text = find(config, family.text_path(config))
    sections = [config, text if isinstance(text, Mapping) else {}]
    return next((section[key] for section in sections for key in ("dtype", "torch_dtype") if section.get(key)), None)


def _same(sizes: Mapping[int, int]) -> int | None:
    """The size that all layers have, from which follows that of those that went; None where they differ."""
    return next(iter(sizes.values())) if len(set(sizes.values())) == 1 else None
