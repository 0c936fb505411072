"""What a config may say of its decoder, what is refused, and which layers are protected."""

from __future__ import annotations

from typing import Any

import pytest

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import FamilyError
from hf_layerprune.families import family_for
from hf_layerprune.families.facts import model_facts
from tests.tiny_checkpoint import make_config
from tests.tiny_moe import moe_config

SOURCE = SourceRef("tiny", None, "0" * 64)


def facts_of(config: dict[str, Any]) -> ModelFacts:
    return model_facts(config, SOURCE, "dir/config.json")


def test_facts() -> None:
    assert facts_of(make_config(layers=9, hidden=24)) == ModelFacts(SOURCE, "qwen3_vl", 9, 24, 2, None)
    assert facts_of(moe_config(9)) == ModelFacts(SOURCE, "qwen3_vl_moe", 9, 32, 2, None)
    config = moe_config()
    del config["text_config"]["decoder_sparse_step"], config["text_config"]["mlp_only_layers"]
    assert facts_of(config) == facts_of(moe_config())
    lineage = {"format": 1, "original_layers": [0, 1, 3, 5, 6, 7], "original_depth": 8}
    assert facts_of(make_config(layer_pruning=lineage)).original_layers == (0, 1, 3, 5, 6, 7)


ACCEPTED: dict[str, dict[str, Any]] = {
    "lists that follow the layers": make_config(text_config__layer_types=["full_attention"] * 6, text_config__mlp_only_layers=[0, 5]),
    # As transformers writes it; six classes and the keys of an object that are not all the layers' numbers.
    "six classes": make_config(text_config__id2label={str(number): f"LABEL_{number}" for number in range(6)}),
    "six keys": make_config(text_config__rope=dict.fromkeys("abcdef", 1)),
    "other lists outside the text section": make_config(num_hidden_layers=None, layer_types=["full_attention"] * 3),
}


@pytest.mark.parametrize("config", ACCEPTED.values(), ids=ACCEPTED)
def test_what_has_nothing_to_do_with_layers(config: dict[str, Any]) -> None:
    assert facts_of(config).layers == 6


def test_as_many_layers_as_sections_of_the_rotation_or_fewer_than_taps() -> None:
    config = make_config(layers=3, vision_config__depth=5, vision_config__deepstack_visual_indexes=[0, 1, 2, 3])
    assert (facts_of(config).layers, facts_of(config).deepstack_layers) == (3, 3)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "depth text": ({"text_config__num_hidden_layers": "36"}, "'text_config.num_hidden_layers' is '36', expected a whole number from 3"),
    "depth true": ({"text_config__num_hidden_layers": True}, "is True, expected"),
    "depth huge": ({"text_config__num_hidden_layers": 10**30}, "expected a whole number from 3 to 10,000"),
    "no text section": ({"text_config": "none"}, "'text_config' is 'none', expected an object"),
    "width": ({"text_config__hidden_size": "32"}, "'hidden_size' is '32'"),
    "undeclared list": (
        {"text_config__head_counts": [4] * 6},
        "'text_config.head_counts' has 6 entries, .* hf_layerprune/families/",
    ),
    "undeclared list deeper": ({"text_config__rope_scaling__factors": [1] * 6}, "'text_config.rope_scaling.factors' has 6 entries"),
    "undeclared list in a list": ({"text_config__blocks": [{"heads": [4] * 6}]}, "'text_config.blocks.0.heads' has 6 entries"),
    "list of lists": ({"text_config__blocks": [[4] * 6, 4]}, "'text_config.blocks.0' has 6 entries"),
    "undeclared object by layer": (
        {"text_config__heads": {str(layer): 4 for layer in range(6)}},
        "'text_config.heads' has 6 entries, .* not declared. Add it to per_layer",
    ),
    "a long key on two lines": ({"text_config": make_config()["text_config"] | {"a\n" * 10_000: [4] * 6}}, "has 6 entries"),
    "depth a second time": ({"num_hidden_layers": 6}, "'num_hidden_layers' stands outside 'text_config' too, as 6, .* Remove it there"),
    "layer_types a second time": ({"layer_types": ["full_attention"] * 6}, r"'layer_types' stands outside 'text_config' too, as \['full"),
    "layer_types too short": (
        {"text_config__layer_types": ["full_attention"] * 5},
        "'text_config.layer_types' is 5 entries, expected a list of 6",
    ),
    "layer_types no list": ({"text_config__layer_types": "full"}, "'text_config.layer_types' is 'full'"),
    "layer index out of range": ({"text_config__mlp_only_layers": [0, 6]}, r"'text_config.mlp_only_layers' is \[0, 6\], .* 0 to 5"),
    "layer index negative": ({"text_config__mlp_only_layers": [-1]}, "mlp_only_layers"),
    "layer index twice": ({"text_config__mlp_only_layers": [1, 1]}, "mlp_only_layers"),
    "tap out of range": ({"vision_config__deepstack_visual_indexes": [0, 3]}, r"deepstack_visual_indexes' is \[0, 3\], .* 0 to 2"),
    "vision depth": ({"vision_config__depth": "3"}, "'vision_config.depth' is '3', expected a whole number of at least 1"),
    "vision depth 2^62": ({"vision_config__depth": 2**62}, "'vision_config.depth' is 4611.*, expected at most 10,000"),
    "taps absent": ({"vision_config__deepstack_visual_indexes": None}, "deepstack_visual_indexes' is None"),
    "bnb": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantized .*'bitsandbytes'.* Prune the unquantized",
    ),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "modules_to_not_convert": ["layers.3"]}}, "'gptq'"),
    "weights of another name": (
        {"transformers_weights": "other.safetensors"},
        "'other.safetensors': transformers loads that file.* Rename it",
    ),
    "quantized, who knows how": ({"quantization_config": "yes"}, "'yes'"),
    "other head": (
        {"architectures": ["Qwen3VLForTokenClassification"]},
        r"\['Qwen3VLForTokenClassification'\] differ .* hf_layerprune/families/",
    ),
    "lineage too short": ({"layer_pruning": {"original_layers": [0, 1], "original_depth": 8}}, "original layer of each of the 6 layers"),
    "lineage out of range": ({"layer_pruning": {"original_layers": [0, 1, 2, 3, 4, 8], "original_depth": 8}}, "original layer"),
    "lineage out of order": ({"layer_pruning": {"original_layers": [1, 0, 2, 3, 4, 5], "original_depth": 8}}, "original layer"),
    "lineage of 10^4200 layers": (
        {"layer_pruning": {"original_layers": [0, 1, 2, 3, 4, 5], "original_depth": 10**4200}},
        "original layer of each of the 6 layers",
    ),
    "lineage no object": ({"layer_pruning": [1]}, "remove the key"),
    "lineage empty": ({"layer_pruning": {}}, "remove the key"),
}


MOE = {
    "sparse step": ({"text_config__decoder_sparse_step": 2}, "'text_config.decoder_sparse_step' is 2, expected 1"),
    "sparse step true": ({"text_config__decoder_sparse_step": True}, "is True, expected 1"),
    "sparse step null": ({"text_config__decoder_sparse_step": None}, "is None, expected 1"),
    "dense layer out of range": ({"text_config__mlp_only_layers": [1, 6]}, r"mlp_only_layers' is \[1, 6\], expected different layers"),
    "other head, of experts": ({"architectures": ["Qwen3VLForConditionalGeneration"]}, "differ .* hf_layerprune/families/"),
}
ROWS = {name: (make_config(**overrides), message) for name, (overrides, message) in BAD.items()}
ROWS |= {name: (moe_config(**overrides), message) for name, (overrides, message) in MOE.items()}


@pytest.mark.parametrize(("config", "message"), ROWS.values(), ids=ROWS)
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message) as caught:
        facts_of(config)
    assert str(caught.value).startswith("dir/config.json: ") and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen3_lv"}, "'qwen3_lv' is not declared. Did you mean 'qwen3_vl'.* add a Family .* hf_layerprune/families/"),
        ({"model_type": "llama"}, "'llama' is not declared"),
        ({"model_type": "x\ny" * 100_000}, "is not declared"),
        ({"model_type": None}, "'model_type' is None"),
        ({}, "'model_type' is None"),
        ({"model_type": ["qwen3_vl"]}, "'model_type' is"),
        ({"model_type": "qwen3_vl", "architectures": "Qwen3VLForConditionalGeneration"}, "architectures"),
    ],
)
def test_unknown_family(config: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message) as caught:
        family_for(config, "config.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
