"""Prove that a checkpoint has exactly the tensors its config asks for: names, shapes, layers. What is not provable is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.shards import FETCH, some
from hf_layerprune.errors import CheckpointError, LayerPruneError, shown
from hf_layerprune.families import Family
from hf_layerprune.families.facts import LINEAGE
from hf_layerprune.families.lookup import find
from hf_layerprune.families.tensors import expected_tensors

FLOATS = ("BF16", "F16", "F32", "F64")


def check_tensors(family: Family, config: Mapping[str, Any], layers: int, tensors: Mapping[str, TensorSpan], path: Path) -> tuple[str, ...]:
    """Compare the tensors of a checkpoint folder with the family's rules; returns what a person should know, one sentence each.

    Raises CheckpointError naming the folder, the tensors and both counts when a layer or tensor is missing or surplus, a
    shape or type is wrong, or a tensor that no rule names seems to depend on the depth.
    """
    where = str(path)
    expected = expected_tensors(family, config, where)
    _check_layers(family, layers, expected.keys(), tensors, where)
    if missing := expected.keys() - tensors.keys():
        tied = f" ({family.head} may be left out only if {family.tied} is true)" if family.head in missing else ""
        raise CheckpointError(f"{where}: tensors are missing, {some(missing)}{tied}. {FETCH}")
    notes = []
    if family.head in tensors and family.head not in expected:
        expected[family.head] = expected[family.embedding]
        notes.append(f"{family.tied} is true, yet {family.head} is on disk: it is kept, and loads untied if it differs from the embeddings")
    for name, shape in expected.items():
        layouts = family.layouts(name, shape)
        if tensors[name].shape not in layouts or tensors[name].dtype not in FLOATS:
            found = f"{tensors[name].dtype} {shown(list(tensors[name].shape))}"
            asked = " or ".join(shown(list(layout)) for layout in layouts)
            raise CheckpointError(f"{where}: {shown(name)} is {found}, config.json asks for {asked} in {'/'.join(FLOATS)}. {FETCH}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        depth = find(config, f"{LINEAGE}.original_depth") or layers
        _refuse_depth_bearing(unknown, tensors, depth, family, where)
        if depth != layers:
            # What came along from the ancestor looks stacked in another depth by chance alone; what came later need not.
            _refuse_depth_bearing(sorted({*unknown} - _came_along(path)), tensors, layers, family, where)
        notes.append(f"tensors of no known place are kept, {some(unknown)}")
    return tuple(notes)


def _came_along(path: Path) -> Set[str]:
    """The tensors that the manifest of a pruned checkpoint names."""
    with suppress(LayerPruneError):
        return Manifest.load(path / RECORDS / MANIFEST).tensors.keys()
    return frozenset()


def _check_layers(family: Family, layers: int, expected: Any, tensors: Mapping[str, TensorSpan], where: str) -> None:
    """Name the layer that is missing, surplus, or has a tensor fewer or more than its config asks for."""
    asked, found = _by_layer(family, expected), _by_layer(family, tensors)
    for problem, numbers in (("missing", asked.keys() - found.keys()), ("surplus", found.keys() - asked.keys())):
        if numbers:
            raise CheckpointError(
                f"{where}: {family.depth} is {layers}, but the tensors hold {len(found)} layers: layer {min(numbers)} is {problem}. "
                f"Correct {family.text}.{family.depth} or fetch the right shards."
            )
    for layer, names in asked.items():
        if names != found[layer]:
            lost, surplus = names - found[layer], found[layer] - names
            detail = f"missing {some(lost)}" if lost else f"undeclared {some(surplus)}"
            raise CheckpointError(f"{where}: layer {layer} has {len(found[layer])} tensors, expected {len(names)}; {detail}. {FETCH}")


def _by_layer(family: Family, names: Any) -> dict[int, set[str]]:
    layers: defaultdict[int, set[str]] = defaultdict(set)
    for name in names:
        if place := family.split(name):
            layers[place[0]].add(place[1])
    return dict(sorted(layers.items()))


def _refuse_depth_bearing(unknown: list[str], tensors: Mapping[str, TensorSpan], depth: int, family: Family, where: str) -> None:
    """Raise CheckpointError where unknown tensors are numbered up to the last layer, or have one entry a layer."""
    for name in unknown:
        numbers = [int(part) for part in name.split(".") if part.isdecimal() and len(part) < 10]
        if name.startswith(family.layer_prefix) or depth - 1 in numbers or tensors[name].shape[:1] == (depth,):
            raise CheckpointError(
                f"{where}: {shown(name)}, {shown(list(tensors[name].shape))}, is not declared and seems to depend on the {depth} layers. "
                f"Declare it in hf_layerprune/families/{family.model_type}.py, or remove it from the checkpoint."
            )
