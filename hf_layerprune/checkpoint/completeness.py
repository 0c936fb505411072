"""Judge a checkpoint's tensors by their siblings: all layers of one type are alike, none is missing, and both ends are there.

What only a table of shapes could tell, such as a wrong size that all layers share, transformers tells where the model is loaded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, RECORDS
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.shards import FETCH, some
from hf_layerprune.errors import CheckpointError, LayerPruneError, shown
from hf_layerprune.families import Family, declared_in
from hf_layerprune.families.facts import LINEAGE, vision_layers
from hf_layerprune.families.family import Layout, numbered
from hf_layerprune.families.lookup import find

FLOATS = ("BF16", "F16", "F32", "F64")

Tensors = Mapping[str, TensorSpan]


@dataclass(frozen=True)
class _Stack:
    """Numbered layers of one kind of module: how errors call one, their prefix on disk, and what the config says of them."""

    layer: str
    prefix: str
    key: str  # path of their number in the config
    kinds: Sequence[Hashable]  # of each layer; those of one kind are siblings


def check_tensors(family: Family, config: Mapping[str, Any], layers: int, tensors: Tensors, path: Path) -> tuple[str, ...]:
    """Judge the tensors of a checkpoint folder; returns what a person should know, one sentence each.

    Raises CheckpointError naming the folder, the tensors and both counts when a layer or tensor is missing or unexpected, has
    another shape or type than its siblings, or when a tensor of no known place seems to depend on the depth.
    """
    where = str(path)
    layout = _layout(family, tensors, where)
    _check_stack(_Stack("layer", layout.layers, family.depth_path(config), _kinds(family, config, layers)), tensors, where)
    if layout.blocks and family.vision_depth:
        kinds = [None] * vision_layers(family, config, str(path / CONFIG))
        _check_stack(_Stack("vision layer", layout.blocks, family.vision_depth, kinds), tensors, where)
    notes = _check_ends(family, layout, config, tensors, where)
    known = {layout.embedding, layout.norm, layout.head}
    places = (layout.layers, *layout.others)
    unknown = sorted(name for name in tensors if name not in known and not _in_place(name, layout, places))
    for name in sorted(tensors.keys() - {*unknown}):
        if tensors[name].dtype not in FLOATS:
            raise CheckpointError(f"{where}: {shown(name)} is {tensors[name].dtype}, expected one of {'/'.join(FLOATS)}. {FETCH}")
    if unknown:
        depth = find(config, f"{LINEAGE}.original_depth") or layers
        _refuse_depth_bearing(unknown, tensors, depth, family, where)
        if depth != layers:
            # What came along from the ancestor looks stacked in another depth by chance alone; what came later need not.
            _refuse_depth_bearing(sorted({*unknown} - _came_along(path)), tensors, layers, family, where)
        notes += (f"tensors of no known place are kept, {some(unknown)}",)
    return notes


def _layout(family: Family, tensors: Iterable[str], where: str) -> Layout:
    """The layout that the decoder's layers are written in; the family's first if there are none."""
    used = [layout for layout in family.layouts if any(numbered(name, layout.layers) for name in tensors)]
    if len(used) > 1:
        prefixes = " and ".join(repr(layout.layers) for layout in used)
        raise CheckpointError(f"{where}: decoder layers stand under both {prefixes}; which of them count is not known. {FETCH}")
    return used[0] if used else family.layouts[0]


def _kinds(family: Family, config: Mapping[str, Any], layers: int) -> list[Hashable]:
    """What the config says of each layer: its entries in the lists with one a layer, and which lists of layers name it."""
    text: Any = find(config, family.text_path(config))
    lists = [text[key] for key in family.per_layer if text.get(key)]
    listed = [set(text[key]) for key in family.layer_indices if text.get(key)]
    return [(*(repr(values[layer]) for values in lists), *(layer in named for named in listed)) for layer in range(layers)]


def _check_stack(stack: _Stack, tensors: Tensors, where: str) -> None:
    """Name the layer that is missing or unexpected, or the tensor by which one differs from most of its siblings."""
    found: defaultdict[int, dict[str, TensorSpan]] = defaultdict(dict)
    for name, span in tensors.items():
        if place := numbered(name, stack.prefix):
            found[place[0]][place[1]] = span
    count = len(stack.kinds)
    for problem, numbers in (("missing", set(range(count)) - found.keys()), ("unexpected", found.keys() - set(range(count)))):
        if numbers:
            raise CheckpointError(
                f"{where}: {stack.key} is {count}, but the tensors hold {len(found)} {stack.layer}s: {stack.layer} {min(numbers)} is "
                f"{problem}. Correct {stack.key} or fetch the right shards."
            )
    siblings: defaultdict[Hashable, list[int]] = defaultdict(list)
    for layer, kind in enumerate(stack.kinds):
        siblings[kind].append(layer)
    for alike in siblings.values():
        _check_siblings(stack, {layer: found[layer] for layer in alike}, where)


def _check_siblings(stack: _Stack, layers: Mapping[int, Tensors], where: str) -> None:
    expected = _most(frozenset(spans) for spans in layers.values())
    for layer, spans in layers.items():
        if spans.keys() != expected:
            lost, more = expected - spans.keys(), spans.keys() - expected
            detail = f"missing {some(lost)}" if lost else f"unexpected {some(more)}"
            raise CheckpointError(
                f"{where}: {stack.layer} {layer} has {len(spans)} tensors, expected {len(expected)} as its siblings have; {detail}. {FETCH}"
            )
    for rest in sorted(expected):
        kind = _most((spans[rest].dtype, spans[rest].shape) for spans in layers.values())
        for layer, spans in layers.items():
            if (spans[rest].dtype, spans[rest].shape) != kind:
                name = f"{stack.prefix}{layer}.{rest}"
                raise CheckpointError(
                    f"{where}: {shown(name)} is {_told(spans[rest])}, its siblings are {kind[0]} {list(kind[1])}. {FETCH}"
                )


def _check_ends(family: Family, layout: Layout, config: Mapping[str, Any], tensors: Tensors, where: str) -> tuple[str, ...]:
    """Embedding, last norm, other modules and, if it is not tied, the head are there."""
    tied = find(config, family.tied) is True
    missing = [name for name in (layout.embedding, layout.norm) if name not in tensors]
    missing += [f"{prefix}*" for prefix in layout.others if not any(name.startswith(prefix) for name in tensors)]
    if layout.head in tensors:
        if tensors.get(layout.embedding) and tensors[layout.head].shape != tensors[layout.embedding].shape:
            told = f"{shown(layout.head)} is {_told(tensors[layout.head])}, {layout.embedding} {_told(tensors[layout.embedding])}"
            raise CheckpointError(f"{where}: {told}: expected equal shapes. {FETCH}")
    elif not tied:
        missing.append(layout.head)
    if missing:
        hint = f" ({layout.head} may be left out only if {family.tied} is true)" if layout.head in missing else ""
        raise CheckpointError(f"{where}: tensors are missing, {some(missing)}{hint}. {FETCH}")
    if tied and layout.head in tensors:
        return (f"{family.tied} is true, yet {layout.head} is on disk: it is kept, and loads untied if it differs from the embeddings",)
    return ()


def _in_place(name: str, layout: Layout, places: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to a decoder layer or to a module besides the decoder."""
    return name.startswith(places) and (not name.startswith(layout.layers) or numbered(name, layout.layers) is not None)


def _refuse_depth_bearing(unknown: list[str], tensors: Tensors, depth: int, family: Family, where: str) -> None:
    """Raise CheckpointError where unknown tensors are numbered up to the last layer, or have one entry a layer."""
    prefixes = tuple(layout.layers for layout in family.layouts)
    for name in unknown:
        numbers = [int(part) for part in name.split(".") if part.isdecimal() and len(part) < 10]
        if name.startswith(prefixes) or depth - 1 in numbers or tensors[name].shape[:1] == (depth,):
            raise CheckpointError(
                f"{where}: {shown(name)}, {shown(list(tensors[name].shape))}, is not declared and seems to depend on the {depth} layers. "
                f"Declare it in {declared_in(family)}, or remove it from the checkpoint."
            )


def _came_along(path: Path) -> Set[str]:
    """The tensors that the manifest of a pruned checkpoint names."""
    with suppress(LayerPruneError):
        return Manifest.load(path / RECORDS / MANIFEST).tensors.keys()
    return frozenset()


def _most(values: Iterable[Any]) -> Any:
    """The value that occurs most often; of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]


def _told(span: TensorSpan) -> str:
    return f"{span.dtype} {shown(list(span.shape))}"
