"""Judge a checkpoint's tensors by their siblings: all layers of one type are alike, none is missing, and both ends are there.

What only a table of shapes could tell, such as a wrong size that all layers share, transformers tells where the model is loaded.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import CONFIG
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.shards import FETCH, some
from hf_layerprune.errors import CheckpointError, shown
from hf_layerprune.families import Family, headless
from hf_layerprune.families.facts import vision_layers
from hf_layerprune.families.family import Layout, find, numbered

STACK = re.compile(r".*?\b(?:layers|blocks|h)\.(?=\d+\.)")  # the name of a numbered module, up to its number
FLOATS = ("BF16", "F16", "F32", "F64")

GATHER = (
    "So models are saved under ZeRO-3 whose weights were not gathered: save with stage3_gather_16bit_weights_on_model_save, or rebuild the "
    "weights from the training's checkpoint with its zero_to_fp32.py."
)
# What a tensor's name begins with where a wrapper was saved instead of the model, and how to save the model.
WRAPPERS = {
    "base_model.model.": "It was saved from a peft model: merge_and_unload() it and save the result with save_pretrained.",
    "module.": "It was saved from a model wrapped for data parallelism: save model.module with save_pretrained.",
    "_fsdp_wrapped_module.": "It was saved from a model wrapped by FSDP: gather its full state dict, then save_pretrained.",
    "_orig_mod.": "It was saved from a compiled model: save model._orig_mod with save_pretrained.",
}

Tensors = Mapping[str, TensorSpan]


def check_tensors(family: Family, config: Mapping[str, Any], layers: int, tensors: Tensors, path: Path) -> tuple[str, ...]:
    """Judge the tensors of a checkpoint folder; returns what a person should know, one sentence each.

    Raises CheckpointError naming the folder, the tensors and both counts when a layer or tensor is missing or unexpected, has
    another shape or type than its siblings, or when the model has no place for a tensor.
    """
    where = str(path)
    used = [layout for layout in family.layouts if any(numbered(name, layout.layers) for name in tensors)]
    if len(used) > 1:
        prefixes = " and ".join(repr(layout.layers) for layout in used)
        raise CheckpointError(f"{where}: decoder layers stand under both {prefixes}; which of them count is not known. {FETCH}")
    layout = used[0] if used else family.layouts[0]
    if not used:
        _refuse_other_prefix(layout, tensors, where)
    _check_layers("layer", layout.layers, family.depth_path(config), _types(family, config, layers), tensors, where)
    if layout.blocks and family.vision_depth:
        types = [None] * vision_layers(family, config, str(path / CONFIG))
        _check_layers("vision layer", layout.blocks, family.vision_depth, types, tensors, where)
    notes = _check_ends(family, layout, config, tensors, where)
    unknown = sorted(name for name in tensors if not _is_known(name, layout))
    for name in sorted(tensors.keys() - {*unknown}):
        if tensors[name].dtype not in FLOATS:
            raise CheckpointError(f"{where}: {shown(name)} is {tensors[name].dtype}, expected one of {'/'.join(FLOATS)}. {FETCH}")
        if tensors[name].nbytes == 0:
            raise CheckpointError(f"{where}: {shown(name)}, {list(tensors[name].shape)}, has no elements. {GATHER}")
    if left := [name for name in unknown if not name.startswith(family.ignored)]:
        remedy = "Load the model with transformers and save it with save_pretrained, which leaves them out."
        raise CheckpointError(f"{where}: {family.architectures[0]} has no place for tensors, {some(left)}. {remedy}")
    return (*notes, f"tensors that transformers ignores are kept, {some(unknown)}") if unknown else notes


def _refuse_other_prefix(layout: Layout, tensors: Tensors, where: str) -> None:
    """CheckpointError where the layers, most of the numbered modules outside the vision tower, stand under another prefix."""
    found = (STACK.match(name) for name in tensors if "visual." not in name and "vision" not in name)
    if not (prefixes := [match[0] for match in found if match]):
        return
    prefix = _most_common(prefixes)
    other = "Load it with the class that it was saved from, and save that with save_pretrained."
    advice = next((remedy for wrapper, remedy in WRAPPERS.items() if prefix.startswith(wrapper)), other)
    raise CheckpointError(f"{where}: expected decoder layers named {layout.layers}N, found {shown(prefix)}N. {advice}")


def _types(family: Family, config: Mapping[str, Any], layers: int) -> list[Hashable]:
    """What the config says of each layer: its entries in the lists with one a layer, and which lists of layers name it."""
    text: Any = find(config, family.text_path(config))
    lists = [text[key] for key in family.per_layer if text.get(key)]
    listed = [set(text[key]) for key in family.layer_indices if text.get(key)]
    return [(*(repr(values[layer]) for values in lists), *(layer in named for named in listed)) for layer in range(layers)]


def _check_layers(what: str, prefix: str, key: str, types: Sequence[Hashable], tensors: Tensors, where: str) -> None:
    """Name the layer that is missing or unexpected, or the tensor by which one differs from most layers of its type.

    what: how errors call a layer; key: path of the number of layers in the config; types: of each layer that the config has.
    """
    found: defaultdict[int, dict[str, TensorSpan]] = defaultdict(dict)
    for name, span in tensors.items():
        if place := numbered(name, prefix):
            found[place[0]][place[1]] = span
    wanted = set(range(len(types)))
    for problem, numbers in (("missing", wanted - found.keys()), ("unexpected", found.keys() - wanted)):
        if numbers:
            raise CheckpointError(
                f"{where}: {key} is {len(types)}, but the tensors hold {len(found)} {what}s: {what} {min(numbers)} is {problem}. "
                f"Correct {key} or fetch the right shards."
            )
    siblings: defaultdict[Hashable, dict[int, Tensors]] = defaultdict(dict)
    for layer, kind in enumerate(types):
        siblings[kind][layer] = found[layer]
    for alike in siblings.values():
        expected = _most_common(frozenset(spans) for spans in alike.values())
        for layer, spans in alike.items():
            if spans.keys() != expected:
                lost, more = expected - spans.keys(), spans.keys() - expected
                detail = f"missing {some(lost)}" if lost else f"unexpected {some(more)}"
                count = f"has {len(spans)} tensors, expected {len(expected)} as its siblings have"
                raise CheckpointError(f"{where}: {what} {layer} {count}; {detail}. {FETCH}")
        for rest in sorted(expected):
            dtype, shape = _most_common((spans[rest].dtype, spans[rest].shape) for spans in alike.values())
            for layer, spans in alike.items():
                if (spans[rest].dtype, spans[rest].shape) != (dtype, shape):
                    name = f"{prefix}{layer}.{rest}"
                    siblings_are = f"its siblings are {dtype} {list(shape)}"
                    raise CheckpointError(f"{where}: {shown(name)} is {_described(spans[rest])}, {siblings_are}. {FETCH}")


def _check_ends(family: Family, layout: Layout, config: Mapping[str, Any], tensors: Tensors, where: str) -> tuple[str, ...]:
    """Embedding, last norm, other modules and, if it is not tied, the head are there."""
    tied = find(config, family.tied) is True
    embedding, head = tensors.get(layout.embedding), tensors.get(layout.head)
    missing = [name for name in (layout.embedding, layout.norm) if name not in tensors]
    missing += [f"{prefix}*" for prefix in layout.others if not any(name.startswith(prefix) for name in tensors)]
    missing += [layout.head] * (head is None and not tied and not headless(family, config))
    if embedding and head and head.shape != embedding.shape:
        both = f"{shown(layout.head)} is {_described(head)}, {layout.embedding} {_described(embedding)}"
        raise CheckpointError(f"{where}: {both}: expected equal shapes. {FETCH}")
    if missing:
        tie = f"If the model shares it with the embeddings, set {family.tied} in config.json to true; if not, save the whole model again."
        advice = tie if missing == [layout.head] else FETCH
        raise CheckpointError(f"{where}: tensors are missing, {some(missing)}. {advice}")
    if tied and head:
        return (f"{family.tied} is true, yet {layout.head} is on disk: it is kept, and loads untied if it differs from the embeddings",)
    return ()


def _is_known(name: str, layout: Layout) -> bool:
    """Whether a tensor belongs to a decoder layer, to an end of the decoder, or to a module besides it."""
    if name.startswith(layout.layers):
        return numbered(name, layout.layers) is not None
    return name in (layout.embedding, layout.norm, layout.head) or name.startswith(layout.others)


def _most_common(values: Iterable[Any]) -> Any:
    """The value that occurs most often; of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]


def _described(span: TensorSpan) -> str:
    return f"{span.dtype} {shown(list(span.shape))}"
