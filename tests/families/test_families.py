"""Families against the models that transformers builds: names in memory and on disk, and what the tests' own checkpoints are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_layerprune.errors import FamilyError, ModelError
from hf_layerprune.families import FAMILIES, image_tokens_of
from hf_layerprune.families.family import Family, find
from hf_layerprune.models.loading import parameter_shapes
from tests.tiny_checkpoint import make_config
from tests.tiny_inputs import one_sample
from tests.tiny_moe import config_30b_a3b, config_235b_a22b, moe_config
from tests.tiny_shapes import tensor_shapes

SHAPES: dict[str, dict[str, Any]] = {
    "tiny, tied": make_config(),
    "untied, biased, not square": make_config(tied=False, hidden=40, text_config__attention_bias=True, text_config__num_key_value_heads=1),
    "tiny, experts": moe_config(),
    "tiny, experts in some layers, tied": moe_config(7, True, 40, text_config__mlp_only_layers=[0, 6, 2]),
    "tiny, no layer with experts": moe_config(text_config__mlp_only_layers=[0, 1, 2, 3, 4, 5]),
    "30B-A3B": config_30b_a3b(),
    "235B-A22B": config_235b_a22b(),
}
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
def test_the_tests_own_checkpoints_are_true(config: dict[str, Any]) -> None:
    assert tensor_shapes(config) == oracle(config)


@pytest.mark.parametrize(("size", "parameters"), [("30B-A3B", 31_070_754_032), ("235B-A22B", 235_670_022_896)])
def test_parameters(size: str, parameters: int) -> None:
    """Those of the released checkpoints."""
    shapes = oracle(SHAPES[size])
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_fits_its_model(family: Family) -> None:
    """Paths in the config, names in memory and on disk, the class that loads it, and the modules that a layer adds its output by."""
    config = TINY[family.model_type]
    assert family.text_path(config) == "text_config" and find(config, family.depth_path(config)) == 6
    assert isinstance(find(config, str(family.deepstack)), list) and find(config, str(family.vision_depth)) == 3
    with torch.device("meta"):
        model = getattr(transformers, family.auto_class).from_config(AutoConfig.for_model(**config))
    assert type(model).__name__ in family.architectures
    layers = model.get_submodule(family.module)
    assert len(layers) == 6
    for path in family.projections:
        parent = path.rpartition(".")[0]
        if not hasattr(layers[0].get_submodule(parent), "experts"):
            assert layers[0].get_submodule(path).out_features == 32
    names = {*tensor_shapes(config)}
    for layout, known in zip(family.layouts, (names, {name.removeprefix("model.") for name in names}), strict=True):
        assert {layout.embedding, layout.norm} <= known and layout.head == "lm_head.weight"
        assert {name for name in known if not name.startswith((layout.text, *layout.others))} <= {layout.head}
    base = transformers.AutoModel.from_config(AutoConfig.for_model(**config))
    assert family.base_architectures == (type(base).__name__,) and len(base.get_submodule(family.module.removeprefix("model."))) == 6
    assert hasattr(transformers, family.images.processor) and image_tokens_of(["X", family.images.processor]) == family.images


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_prefix_does_not_depend_on_what_follows(family: Family) -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**TINY[family.model_type])).eval()
    inputs = one_sample((4, 4, 6))
    other = inputs["input_ids"].clone()
    other[0, -3:] = 7
    with torch.no_grad():
        first, second = (model(**inputs | {"input_ids": ids}, use_cache=False).logits for ids in (inputs["input_ids"], other))
    assert family.causal_prefix == torch.allclose(first[0, :-3], second[0, :-3], atol=1e-6)
    assert not torch.allclose(first[0, -3:], second[0, -3:], atol=1e-3)


LAYERS = "model.language_model.layers"


def test_names_of_decoder_tensors() -> None:
    family, name = FAMILIES["qwen3_vl"], f"{LAYERS}.14.mlp.up_proj.weight"
    assert family.split(name) == (14, "mlp.up_proj.weight") and family.renumbered(name, 3) == f"{LAYERS}.3.mlp.up_proj.weight"
    others = ["model.visual.blocks.3.attn.qkv.weight", "mtp.layers.0.mlp.up_proj.weight", f"prefix.{LAYERS}.5.weight", f"{LAYERS}.5"]
    for name in (*others, *(f"{LAYERS}.{number}.weight" for number in ("x", "07", "-1", "²"))):
        assert family.split(name) is None


def test_shapes_without_memory_for_them() -> None:
    assert parameter_shapes(make_config(), "test") == oracle(make_config())


@pytest.mark.parametrize("value", ["8", -8, [8], 10**4200], ids=lambda value: str(value)[:9])
def test_a_config_that_no_model_can_be_built_from(value: object) -> None:
    with pytest.raises(ModelError, match=r"test: transformers cannot build the model: .") as caught:
        parameter_shapes(make_config(text_config__head_dim=value), "test")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_config_of_no_known_family_is_not_built() -> None:
    with pytest.raises(FamilyError, match="'llama' is not declared"):
        parameter_shapes({"model_type": "llama"}, "test")
