"""Estimates of memory, worked out again by hand from the shapes of a made-up model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.memory import estimate
from hf_layerprune.healing.recipes import DOMAIN_AWARE, INTERLACE, RECIPES
from tests.tiny_checkpoint import make_checkpoint
from tests.tiny_shapes import tensor_shapes

LAYER = "model.language_model.layers."


@pytest.mark.parametrize("left", [6, 4])
def test_every_part(tmp_path: Path, left: int) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "tiny"), "tiny")
    text, vision = checkpoint.config["text_config"], checkpoint.config["vision_config"]
    shapes = tensor_shapes(checkpoint.config)
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(LAYER) or int(name[len(LAYER) :].split(".")[0]) < left}
    parameters = sum(math.prod(shape) for shape in kept.values())
    found = estimate(checkpoint, left, RECIPES)
    assert found.weights == 2 * parameters
    assert found.cache == 1000 * left * text["num_key_value_heads"] * text["head_dim"] * 2 * 2

    width, inner = text["hidden_size"], text["intermediate_size"]
    patches = (1 << 20) / vision["patch_size"] ** 2
    tower = patches * (8 * vision["hidden_size"] + 2 * vision["intermediate_size"])
    decoder = (patches / vision["spatial_merge_size"] ** 2 + 512) * (8 * width + 2 * inner)
    assert found.probe == 2 * (parameters + max(tower, decoder)) and found.probe_cpu == 2 * found.probe

    adapters = sum(32 * (shape[0] + shape[1]) for name, shape in kept.items() if name.rsplit(".", 2)[-2].endswith("_proj"))
    tokens = DOMAIN_AWARE.micro_batch_size * DOMAIN_AWARE.max_length
    assert found.heal["domain-aware"] == 2 * parameters + 14 * adapters + 2 * tokens * (left * width + 8 * width + 2 * inner)
    layer = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(f"{LAYER}1."))
    trained, tokens = layer * (6 - left or 1), INTERLACE.micro_batch_size * INTERLACE.max_length
    assert found.heal["interlace"] == 2 * parameters + 14 * trained + 2 * tokens * (left * width + 8 * width + 2 * inner)
