"""The decoder of a loaded model: find its layers, and cut some out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_layerprune.errors import ModelError
from hf_layerprune.families.family import Family


def decoder_layers(model: PreTrainedModel, family: Family) -> nn.ModuleList:
    """The decoder layers, in order. ModelError if the model is not built as its family says."""
    path = _in_memory(model, family.module)
    try:
        layers = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__} has no {path!r}, where the family {family.model_type} says its layers are.") from error
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(model).__name__}: {path!r} is a {type(layers).__name__}, expected the list of decoder layers.")
    return layers


def _in_memory(model: PreTrainedModel, path: str) -> str:
    """Where a module stands that a family names by its path from the model with a head."""
    return path.removeprefix(f"{model.base_model_prefix}.") if model.base_model is model else path


def without_layers(model: PreTrainedModel, family: Family, keep: Sequence[int], config: Mapping[str, Any]) -> PreTrainedModel:
    """A model of the kept layers alone that shares the weights of `model`, which stays whole.

    config: the raw config.json of the shortened model. Layers are renumbered, so that each finds its place in the cache.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pruned: PreTrainedModel = copy.deepcopy(model, shared)
    owner, _, name = _in_memory(model, family.module).rpartition(".")
    layers = decoder_layers(pruned, family)
    setattr(pruned.get_submodule(owner), name, nn.ModuleList([layers[index] for index in keep]))
    for index, layer in enumerate(decoder_layers(pruned, family)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  # nn.Module types its attributes as tensors
    _update_config(pruned.config, config)
    text: Any = pruned.config.get_text_config()
    if not family.text_path(config):  # flat on disk, in sections in memory
        _update_config(text, config)
    for key in family.per_layer:  # transformers fills in what config.json leaves out, for all layers there were
        if len(values := getattr(text, key, None) or []) > len(keep):
            setattr(text, key, [values[layer] for layer in keep])
    return pruned


def _update_config(target: Any, raw: Mapping[str, Any]) -> None:
    """Carry the raw config's changed values over, sub-configurations included; names that transformers renamed stay."""
    for key, value in raw.items():
        current = getattr(target, key, None)
        if isinstance(value, Mapping) and hasattr(current, "to_dict"):
            _update_config(current, value)
        elif key == "layer_pruning" or (isinstance(value, (int, list)) and current is not None and current != value):
            setattr(target, key, value)
