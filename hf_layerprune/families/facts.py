"""From a parsed config.json to what planning must know: how deep, how wide, which layers are special, which ancestor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import FamilyError, shown
from hf_layerprune.families import declared_in, family_for
from hf_layerprune.families.family import Family, find, joined

MIN_LAYERS = 3  # a first and a last layer, which every method keeps, and one to decide about
MAX_MODULES = 10_000  # no decoder or tower is that deep; a hostile count must not become a loop of that length
LINEAGE = "layer_pruning"


def model_facts(config: Mapping[str, Any], source: SourceRef, where: str) -> ModelFacts:
    """What a config says of its decoder; FamilyError naming `where`, the key and the value found if it cannot be trusted."""
    family = family_for(config, where)
    path = family.text_path(config)
    text = find(config, path)
    if not isinstance(text, Mapping):
        raise FamilyError(f"{where}: {path!r} is {shown(text)}, expected an object. Download config.json again.")
    if quantization := quantization_of(family, config):
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        raise FamilyError(
            f"{where}: the checkpoint is quantized (quant_method {shown(method)}): its tensors and skip lists are not declared. "
            "Prune the unquantized checkpoint and quantize the result."
        )
    if (named := config.get("transformers_weights")) is not None:
        raise FamilyError(
            f"{where}: 'transformers_weights' is {shown(named)}: transformers loads that file, whatever else lies there. Rename it to "
            "model.safetensors (an index: to model.safetensors.index.json) and remove the key."
        )
    for key, needed in family.required.items():
        found = text.get(key, needed)
        if type(found) is not type(needed) or found != needed:
            raise FamilyError(
                f"{where}: {joined(path, key)!r} is {shown(found)}, expected {needed}: with another value a layer's number decides what "
                "it is made of, and the layers behind a removed one would no longer fit. Such models are not declared."
            )
    layers: Any = text.get(family.depth)
    if not is_depth(layers):
        expected = f"a whole number from {MIN_LAYERS} to {MAX_MODULES:,}"
        raise FamilyError(f"{where}: {family.depth_path(config)!r} is {shown(layers)}, expected {expected}.")
    _check_lists(family, text, path, layers, where)
    for key in (family.depth, *family.per_layer) if path else ():
        if (value := config.get(key)) == layers or (isinstance(value, list) and len(value) == layers):
            raise FamilyError(
                f"{where}: {key!r} stands outside {path!r} too, as {shown(value)}, and would keep the old depth. Remove it there."
            )
    return ModelFacts(
        source=source,
        family=family.model_type,
        layers=layers,
        hidden_size=_positive(text, family.width, where),
        deepstack_layers=min(_count_taps(family, config, where), layers),
        original_layers=_lineage(config, layers, where),
    )


def quantization_of(family: Family, config: Mapping[str, Any]) -> Any:
    """What a config says of how its weights are quantized, beside its text section or in it; nothing true where they are not."""
    path = joined(family.text_path(config), "quantization_config")
    return config.get("quantization_config") or find(config, path)


def is_depth(value: Any) -> TypeGuard[int]:
    """Whether a value of a config can be the number of its decoder layers."""
    return type(value) is int and MIN_LAYERS <= value <= MAX_MODULES


def vision_layers(family: Family, config: Mapping[str, Any], where: str) -> int:
    """The number of layers of the vision tower, 0 where the family does not say where it stands; FamilyError if it cannot be trusted."""
    if family.vision_depth is None:
        return 0
    if (depth := _positive(config, family.vision_depth, where)) > MAX_MODULES:
        raise FamilyError(f"{where}: {family.vision_depth!r} is {shown(depth)}, expected at most {MAX_MODULES:,}. Correct config.json.")
    return depth


def _check_lists(family: Family, text: Mapping[str, Any], path: str, layers: int, where: str) -> None:
    """Refuse a declared list that does not fit the depth, and an undeclared one with as many entries as there are layers."""
    for key in family.per_layer:
        value = text.get(key)
        if value is not None and (not isinstance(value, list) or len(value) != layers):
            found = f"{len(value)} entries" if isinstance(value, list) else shown(value)
            raise FamilyError(f"{where}: {joined(path, key)!r} is {found}, expected a list of {layers}, one a layer. Correct config.json.")
    for key in family.layer_indices:
        value = text.get(key)
        if value is not None and not _distinct_below(value, layers):
            raise FamilyError(f"{where}: {joined(path, key)!r} is {shown(value)}, expected different layers from 0 to {layers - 1}.")
    declared = {*family.per_layer, *family.layer_indices, *family.other_lists}
    numbers = {str(layer) for layer in range(layers)}
    for name, value in _collections({key: value for key, value in text.items() if key != LINEAGE}):
        if name not in declared and len(value) == layers and (isinstance(value, list) or value.keys() == numbers):
            raise FamilyError(
                f"{where}: {shown(joined(path, name))} has {layers} entries, as many as there are layers, and is not declared. Add it "
                f"to per_layer, layer_indices or other_lists in {declared_in(family)}."
            )


def _collections(value: Mapping[str, Any] | list[Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every list and object within a value, by its path."""
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(item, (list, Mapping)):
            yield joined(path, str(key)), item
            yield from _collections(item, joined(path, str(key)))


def _count_taps(family: Family, config: Mapping[str, Any], where: str) -> int:
    depth = vision_layers(family, config, where)
    if family.deepstack is None:
        return 0
    taps = find(config, family.deepstack)
    if not _distinct_below(taps, depth):
        raise FamilyError(f"{where}: {family.deepstack!r} is {shown(taps)}, expected different vision layers from 0 to {depth - 1}.")
    return len(taps)


def _lineage(config: Mapping[str, Any], layers: int, where: str) -> tuple[int, ...] | None:
    """The index in the first ancestor of each layer of a model that was pruned before, else None."""
    record = config.get(LINEAGE)
    if record is None:
        return None
    original, depth = find(config, f"{LINEAGE}.original_layers"), find(config, f"{LINEAGE}.original_depth")
    named = type(depth) is int and depth <= MAX_MODULES and _distinct_below(original, depth)
    if not named or len(original) != layers or original != sorted(original):
        raise FamilyError(
            f"{where}: {LINEAGE!r} does not name the original layer of each of the {layers} layers: {shown(record)}. "
            f"Correct it, or remove the key to go on without the lineage."
        )
    return tuple(original)


def _positive(config: Mapping[str, Any], path: str, where: str) -> int:
    """A whole number of at least 1. What is larger than any tensor is refused: a product of such numbers could not be written out."""
    value = find(config, path)
    if type(value) is not int or not 1 <= value < 1 << 63:
        expected = "a whole number of at least 1 and below 2^63"
        raise FamilyError(f"{where}: {path!r} is {shown(value)}, expected {expected}. Download config.json again.")
    return value


def _distinct_below(value: Any, limit: int) -> bool:
    """Whether a value is a list of different whole numbers from 0 to limit - 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < limit for item in value) and len(set(value)) == len(value)
