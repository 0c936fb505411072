"""From a parsed config.json to what planning must know: how deep, how wide, which layers are special, which ancestor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import FamilyError, shown
from hf_layerprune.families import declared_in, family_for
from hf_layerprune.families.family import Family
from hf_layerprune.families.lookup import find, joined, numbers_below, positive, section

MIN_LAYERS = 3  # a first and a last layer, which every method keeps, and one to decide about
MAX_MODULES = 10_000  # no decoder or tower is that deep; a hostile count must not become a loop of that length
LINEAGE = "layer_pruning"


def model_facts(config: Mapping[str, Any], source: SourceRef, where: str) -> ModelFacts:
    """What a config says of its decoder; FamilyError naming `where`, the key and the value found if it cannot be trusted."""
    family = family_for(config, where)
    path = family.text_path(config)
    text = section(config, path, where)
    _refuse_quantized(config, text, where)
    _check_required(family, text, path, where)
    layers = _depth(text.get(family.depth), family.depth_path(config), where)
    _check_lists(family, text, path, layers, where)
    if path:
        _refuse_second_depth(family, config, layers, path, where)
    return ModelFacts(
        source=source,
        family=family.model_type,
        layers=layers,
        hidden_size=positive(text, family.width, where),
        deepstack_layers=min(len(_taps(family, config, where)), layers),
        original_layers=_lineage(config, layers, where),
    )


def _refuse_quantized(config: Mapping[str, Any], text: Mapping[str, Any], where: str) -> None:
    quantization = config.get("quantization_config") or text.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        raise FamilyError(
            f"{where}: the checkpoint is quantized (quant_method {shown(method)}): its tensors and skip lists are not declared. "
            "Prune the unquantized checkpoint and quantize the result."
        )


def _check_required(family: Family, text: Mapping[str, Any], path: str, where: str) -> None:
    for key, value in family.required.items():
        found = text.get(key, value)
        if type(found) is not type(value) or found != value:
            raise FamilyError(
                f"{where}: {joined(path, key)!r} is {shown(found)}, expected {value}: with another value a layer's number decides what "
                "it is made of, and the layers behind a removed one would no longer fit. Such models are not declared."
            )


def is_depth(value: Any) -> TypeGuard[int]:
    """Whether a value of a config can be the number of its decoder layers."""
    return type(value) is int and MIN_LAYERS <= value <= MAX_MODULES


def _depth(value: Any, path: str, where: str) -> int:
    if not is_depth(value):
        raise FamilyError(f"{where}: {path!r} is {shown(value)}, expected a whole number from {MIN_LAYERS} to {MAX_MODULES:,}.")
    return value


def _check_lists(family: Family, text: Mapping[str, Any], path: str, layers: int, where: str) -> None:
    for key in family.per_layer:
        value = text.get(key)
        if value is not None and (not isinstance(value, list) or len(value) != layers):
            found = f"{len(value)} entries" if isinstance(value, list) else shown(value)
            raise FamilyError(f"{where}: {joined(path, key)!r} is {found}, expected a list of {layers}, one a layer. Correct config.json.")
    for key in family.layer_indices:
        value = text.get(key)
        if value is not None and not numbers_below(value, layers):
            raise FamilyError(f"{where}: {joined(path, key)!r} is {shown(value)}, expected different layers from 0 to {layers - 1}.")
    declared = {*family.per_layer, *family.layer_indices, *family.other_lists}
    numbers = {str(layer) for layer in range(layers)}
    for keys, value in _collections({key: value for key, value in text.items() if key != LINEAGE}, ()):
        per_layer = len(value) == layers and (isinstance(value, list) or value.keys() == numbers)
        if per_layer and (name := ".".join(keys)) not in declared:
            raise FamilyError(
                f"{where}: {shown(joined(path, name))} has {layers} entries, as many as there are layers, and is not declared. Add it "
                f"to per_layer, layer_indices or other_lists in {declared_in(family)}."
            )


def _collections(value: Mapping[str, Any] | list[Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every list and object within a value, with the keys and places that lead there."""
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(item, (list, Mapping)):
            yield (*keys, str(key)), item
            yield from _collections(item, (*keys, str(key)))


def _refuse_second_depth(family: Family, config: Mapping[str, Any], layers: int, path: str, where: str) -> None:
    """Refuse the depth a second time, beside the text section: nothing reads it there, so nothing would shorten it."""
    for key in (family.depth, *family.per_layer):
        value = config.get(key)
        if value == layers or (isinstance(value, list) and len(value) == layers):
            raise FamilyError(
                f"{where}: {key!r} stands outside {path!r} too, as {shown(value)}, and would keep the old depth. Remove it there."
            )


def vision_layers(family: Family, config: Mapping[str, Any], where: str) -> int:
    """The number of layers of the vision tower, 0 where the family does not say where it stands; FamilyError if it cannot be trusted."""
    if family.vision_depth is None:
        return 0
    depth = positive(config, family.vision_depth, where)
    if depth > MAX_MODULES:
        raise FamilyError(f"{where}: {family.vision_depth!r} is {shown(depth)}, expected at most {MAX_MODULES:,}. Correct config.json.")
    return depth


def _taps(family: Family, config: Mapping[str, Any], where: str) -> list[int]:
    depth = vision_layers(family, config, where)
    if family.deepstack is None:
        return []
    taps = find(config, family.deepstack)
    if not numbers_below(taps, depth):
        raise FamilyError(f"{where}: {family.deepstack!r} is {shown(taps)}, expected different vision layers from 0 to {depth - 1}.")
    return list(taps)


def _lineage(config: Mapping[str, Any], layers: int, where: str) -> tuple[int, ...] | None:
    """The index in the first ancestor of each layer of a model that was pruned before, else None."""
    record = config.get(LINEAGE)
    if record is None:
        return None
    original, depth = find(config, f"{LINEAGE}.original_layers"), find(config, f"{LINEAGE}.original_depth")
    named = type(depth) is int and depth <= MAX_MODULES and numbers_below(original, depth)
    if not named or len(original) != layers or original != sorted(original):
        raise FamilyError(
            f"{where}: {LINEAGE!r} does not name the original layer of each of the {layers} layers: {shown(record)}. "
            f"Correct it, or remove the key to go on without the lineage."
        )
    return tuple(original)
