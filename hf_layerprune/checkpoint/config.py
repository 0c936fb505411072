"""config.json: read strictly, shortened by the plan, written back in its own order. Only what depends on depth changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import CONFIG
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.files import read_object
from hf_layerprune.errors import CheckpointError
from hf_layerprune.families.facts import LINEAGE
from hf_layerprune.families.family import Family, find

MAX_CONFIG_BYTES = 16 << 20


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder, keys in the file's order; CheckpointError naming the file if it is not valid."""
    config = read_object(folder, CONFIG, "model config", MAX_CONFIG_BYTES, "Fetch the config.json that belongs to the weights.")
    try:
        canonical_json(config)
    except ValueError as error:  # 1e999 is legal JSON
        raise CheckpointError(f"{folder / CONFIG}: contains a non-finite number ({error}). Correct it.") from error
    return config


def dump_config(config: dict[str, Any]) -> bytes:
    """config.json as transformers lays it out, keys in the order given."""
    return (json.dumps(config, indent=2, allow_nan=False) + "\n").encode("ascii")


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """One byte string for equal JSON values; ValueError for a number that JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def shorten_config(config: dict[str, Any], plan: PruningPlan, family: Family) -> dict[str, Any]:
    """The config of the pruned model; the argument is left as it is.

    The depth, the lists with one entry a layer and the lists of layer numbers follow `plan.keep`; `layer_pruning` records
    the lineage. Vision taps count layers of the vision tower and stay.
    """
    short = copy.deepcopy(config)
    text = find(short, family.text_path(short))
    for key in family.per_layer:
        if text.get(key) is not None:
            text[key] = [text[key][layer] for layer in plan.keep]
    for key in family.layer_indices:
        if text.get(key) is not None:
            text[key] = [plan.keep.index(layer) for layer in text[key] if layer in plan.keep]
    text[family.depth] = len(plan.keep)
    short[LINEAGE] = {
        "format": 1,
        "source": dict(vars(plan.source)),
        "strategy": plan.strategy,
        "kept_layers": list(plan.keep),
        "original_layers": list(plan.kept_original_layers()),
        "original_depth": config[LINEAGE]["original_depth"] if config.get(LINEAGE) else plan.layers,
    }
    return short
