"""The rules of a family against the model that transformers builds from the same config, on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_checkpoint import make_config
from tiny_moe import config_30b_a3b, config_235b_a22b, moe_config
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_layerprune.errors import FamilyError
from hf_layerprune.families import FAMILIES, family_for
from hf_layerprune.families.lookup import find
from hf_layerprune.families.tensors import expected_tensors

SMALL_VISION = {
    "vision_config__depth": 24,
    "vision_config__hidden_size": 1024,
    "vision_config__intermediate_size": 4096,
    "vision_config__num_heads": 16,
}
LARGE_VISION = {
    "vision_config__depth": 27,
    "vision_config__hidden_size": 1152,
    "vision_config__intermediate_size": 4304,
    "vision_config__num_heads": 16,
}
REAL = {
    "text_config__head_dim": 128,
    "text_config__num_key_value_heads": 8,
    "text_config__vocab_size": 151936,
    "vision_config__num_position_embeddings": 2304,
    "vision_config__patch_size": 16,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny, tied": make_config(),
    "untied, biased, not square": make_config(tied=False, hidden=40, text_config__attention_bias=True, text_config__num_key_value_heads=1),
    "2B": make_config(
        28, True, 2048, text_config__num_attention_heads=16, text_config__intermediate_size=6144, **REAL, **SMALL_VISION,
        vision_config__deepstack_visual_indexes=[5, 11, 17],
    ),
    "8B": make_config(
        36, False, 4096, text_config__num_attention_heads=32, text_config__intermediate_size=12288, **REAL, **LARGE_VISION,
        vision_config__deepstack_visual_indexes=[8, 16, 24],
    ),
    "tiny, experts": moe_config(),
    "tiny, experts in some layers, tied": moe_config(7, True, 40, text_config__mlp_only_layers=[0, 6, 2]),
    "tiny, no layer with experts": moe_config(text_config__mlp_only_layers=[0, 1, 2, 3, 4, 5]),
    "30B-A3B": config_30b_a3b(),
    "235B-A22B": config_235b_a22b(),
}  # fmt: skip
TINY = {"qwen3_vl": make_config(), "qwen3_vl_moe": moe_config()}


def oracle(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's own parameters, experts as the released checkpoints have them.

    A tied head is the same parameter as the embedding, and not on disk.
    """
    parsed = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(parsed)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {name: (shape[0], shape[2], shape[1]) if ".mlp.experts." in name else shape for name, shape in shapes.items()}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_rules_give_the_names_and_shapes_of_the_model(config: dict[str, Any]) -> None:
    assert expected_tensors(family_for(config, "test"), config, "test") == oracle(config)


@pytest.mark.parametrize(("size", "parameters"), [("2B", 2_127_532_032), ("30B-A3B", 31_070_754_032), ("235B-A22B", 235_670_022_896)])
def test_parameters(size: str, parameters: int) -> None:
    """Those of the released checkpoints."""
    shapes = oracle(SHAPES[size])
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_fits_together(family: Any) -> None:
    config = TINY[family.model_type]
    assert isinstance(find(config, family.text), dict) and isinstance(find(config, family.deepstack), list)
    assert family.embedding in expected_tensors(family, config, "test")
    assert family.head in expected_tensors(family, {**config, family.tied: False}, "test")
    assert family.split(family.join(14, "mlp.up_proj.weight")) == (14, "mlp.up_proj.weight")


@pytest.mark.parametrize(
    "name",
    [
        "model.visual.blocks.3.attn.qkv.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "model.language_model.layers.x.weight",
        "model.language_model.layers.07.weight",
        "model.language_model.layers.-1.weight",
        "model.language_model.layers.².weight",
        "model.language_model.layers.5",
        "prefix.model.language_model.layers.5.weight",
    ],
)
def test_names_that_are_no_decoder_layer(name: str) -> None:
    assert FAMILIES["qwen3_vl"].split(name) is None


@pytest.mark.parametrize("value", [None, "8", 8.0, 0, -8, True, [8], 2**63, 10**4200], ids=lambda value: str(value)[:9])
def test_a_key_that_a_rule_needs(value: object) -> None:
    config = make_config(text_config__head_dim=value)
    with pytest.raises(FamilyError, match=r"config\.json: 'text_config\.head_dim' is .*, expected a whole number of at least 1") as caught:
        expected_tensors(family_for(config, "test"), config, "config.json")
    assert len(str(caught.value)) < 400


def test_a_hostile_count_is_no_loop_of_that_length() -> None:
    config = make_config(vision_config__depth=2**62)
    assert len(expected_tensors(family_for(config, "test"), config, "test")) < 200_000
