"""What memory a model takes to probe, fine-tune and serve, estimated from its headers and config: enough to choose a machine by.

Of P parameters in bf16 (2 bytes), L layers of width d and inner width f, T tokens:
serving   2 P, and for every token 4 L (key and value heads) (width of a head) bytes of cache
a pass    T (8 d + 2 f) numbers at once: the widest moment of a layer; the vision tower's likewise, over its patches
training  16 bytes for a trained parameter (weight, gradient and AdamW's two moments in fp32), 2 for all others, and of the
          activations what gradient checkpointing keeps: T d numbers a layer, and one layer's whole
Fragmentation, the framework's own memory and the optimizer's temporaries come on top: some gigabytes on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.healing_record import Recipe
from hf_layerprune.artifacts.prompts import PROBED_PIXELS
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.families.family import find

HALF, FULL = 2, 4  # bytes of a number in bf16 and fp32
TRAINED = 16  # bytes of a trained parameter
WORDS = 512  # tokens of a probe's questions, generously


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: int  # in bf16
    cache: int  # keys and values of a thousand tokens, in bf16
    probe: int  # in bf16, as on an accelerator
    probe_cpu: int  # in fp32, as on a CPU
    heal: Mapping[str, int]  # by recipe, on one device


def estimate(checkpoint: Checkpoint, layers: int, recipes: Mapping[str, Recipe]) -> Memory:
    """The memory of a checkpoint of which the first `layers` layers are left; a recipe that trains layers trains as many as
    went, of a dense model a quarter.
    """
    depth = checkpoint.facts.layers
    parameters = checkpoint.size(range(layers, depth))[0]
    text = find(checkpoint.config, checkpoint.family.text_path(checkpoint.config))
    cache = 1000 * 2 * layers * _number(text, "num_key_value_heads", 1) * _head(text) * HALF
    pass_numbers = _pass_numbers(checkpoint, text)
    heal = {name: HALF * parameters + _training(checkpoint, layers, recipe, text) for name, recipe in recipes.items()}
    return Memory(HALF * parameters, cache, HALF * (parameters + pass_numbers), FULL * (parameters + pass_numbers), heal)


def _pass_numbers(checkpoint: Checkpoint, text: Mapping[str, Any]) -> int:
    """Numbers that are held at once while an image of PROBED_PIXELS goes through."""
    vision: Any = checkpoint.config.get("vision_config") or {}
    patch, merge = _number(vision, "patch_size", 16), _number(vision, "spatial_merge_size", 2)
    patches = PROBED_PIXELS // patch**2
    tower = patches * _widest(vision)
    return max(tower, (patches // merge**2 + WORDS) * _widest(text))


def _training(checkpoint: Checkpoint, layers: int, recipe: Recipe, text: Mapping[str, Any]) -> int:
    tokens = recipe.micro_batch_size * recipe.max_length
    kept = tokens * _number(text, "hidden_size", 1) * layers + tokens * _widest(text)
    return (TRAINED - HALF) * _trained(checkpoint, layers, recipe) + HALF * kept


def _trained(checkpoint: Checkpoint, layers: int, recipe: Recipe) -> int:
    """Parameters that a recipe trains: adapters on the projections of every layer, or whole layers, as many as were removed."""
    places = [(place, span) for name, span in checkpoint.tensors.items() if (place := checkpoint.family.split(name))]
    if recipe.method == "lora":
        targets = tuple(f"{target}.weight" for target in recipe.lora_targets.split())
        wide = [span.shape for (layer, rest), span in places if layer < layers and rest.endswith(targets) and len(span.shape) == 2]
        return recipe.lora_rank * sum(map(sum, wide))
    count = min(layers, checkpoint.facts.layers - layers or checkpoint.facts.layers // 4)
    return sum(math.prod(span.shape) for (layer, _), span in places if layers - count <= layer < layers)


def _widest(section: Mapping[str, Any]) -> int:
    width = _number(section, "hidden_size", 1)
    return 8 * width + 2 * _number(section, "intermediate_size", 4 * width)


def _head(text: Mapping[str, Any]) -> int:
    return _number(text, "head_dim", 0) or _number(text, "hidden_size", 1) // _number(text, "num_attention_heads", 1)


def _number(section: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = section.get(key)
    return value if type(value) is int and 0 < value < 1 << 40 else otherwise
