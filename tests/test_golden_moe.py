"""The golden test for models with experts, in both layouts on disk: Qwen's own, and the one that transformers 5 writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, PreTrainedModel

from hf_layerprune import LayerPruner
from tests.test_golden import bypassed, cut, load, logits
from tests.tiny_moe import moe_checkpoint

LAYERS, TAPS, DENSE = 8, 3, [2, 5]
OTHERS = [(3,), (5,), (3, 4), (4, 6), (5, 6), (3, 4, 5, 6)]
DEEPSTACK = [(1,), (2,), (1, 2), (2, 5), (1, 4, 6), (1, 2, 3, 4, 5)]
FORCED = [(0,), (7,), (0, 1, 2)]
GATE_UP = "model.language_model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 layers, the third and sixth without experts, 3 DeepStack taps, bf16, names, config keys and shapes as on the Hub."""
    folder = tmp_path_factory.mktemp("golden-moe") / "released"
    overrides = {"text_config__mlp_only_layers": DENSE, "vision_config__deepstack_visual_indexes": [0, 1, 2]}
    return moe_checkpoint(folder, LAYERS, shards=3, **overrides)


@pytest.fixture(scope="module")
def dense(released: Path) -> PreTrainedModel:
    return load(released)


@pytest.fixture(scope="module")
def resaved(released: Path) -> Path:
    """What transformers writes after loading it: experts transposed, another key for their number."""
    folder = released.parent / "resaved"
    # bf16 on disk, fp32 in memory: tensors of the same type are views into the file, and where they begin moves the last bit.
    AutoModelForImageTextToText.from_pretrained(released, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def shape_on_disk(folder: Path) -> list[int]:
    """That of the first layer's gate and up projections."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if GATE_UP in tensors.keys():  # noqa: SIM118  # not a dict
                return list(tensors.get_slice(GATE_UP).get_shape())
    raise AssertionError(f"no {GATE_UP} in {folder}")


def test_the_two_layouts_are_two(released: Path, resaved: Path, dense: PreTrainedModel) -> None:
    """If this fails, transformers writes something else now: read the family's `either_way` again."""
    assert (shape_on_disk(released), shape_on_disk(resaved)) == ([5, 32, 24], [5, 24, 32])
    texts = [json.loads((folder / "config.json").read_text())["text_config"] for folder in (released, resaved)]
    assert [(text.get("num_experts"), text.get("num_local_experts")) for text in texts] == [(5, None), (None, 5)]
    assert torch.equal(logits(load(resaved)), logits(dense))


@pytest.mark.parametrize("layout", ["released", "resaved"])
@pytest.mark.parametrize("drop", [*OTHERS, *DEEPSTACK, *FORCED], ids=str)
@pytest.mark.filterwarnings("ignore:the plan drops")
def test_logits_equal_bit_for_bit(
    request: pytest.FixtureRequest, dense: PreTrainedModel, tmp_path: Path, layout: str, drop: tuple[int, ...]
) -> None:
    source = request.getfixturevalue(layout)
    pruner = LayerPruner.from_pretrained(source, dtype="float32", statistics_folder=None)
    pruner.prune(layers=drop, protect="first,last", force=drop in FORCED)
    pruner.save_pretrained(tmp_path / "pruned")
    on_disk = load(tmp_path / "pruned")
    kept = [layer for layer in range(LAYERS) if layer not in drop]
    for model in (on_disk, pruner.model):
        assert model.config.text_config.mlp_only_layers == [kept.index(layer) for layer in DENSE if layer in kept]
        assert [hasattr(layer.mlp, "experts") for layer in model.model.language_model.layers] == [layer not in DENSE for layer in kept]
    found = logits(on_disk)
    assert torch.equal(found, logits(cut(dense, drop)))
    assert torch.equal(found, logits(pruner.model))
    assert not torch.equal(found, logits(dense))
    with bypassed(dense, drop):
        equal = torch.equal(found, logits(dense))
    assert equal == (min(drop) >= TAPS)  # a dropped DeepStack layer moves the features to other layers


@pytest.mark.filterwarnings("ignore:the plan drops")
def test_pruned_twice(released: Path, dense: PreTrainedModel, tmp_path: Path) -> None:
    """The renumbered mlp_only_layers is what the second plan goes by."""
    for source, name, drop in ((released, "first", (1, 3)), (tmp_path / "first", "second", (1, 3))):
        pruner = LayerPruner.from_pretrained(source, dtype="float32", statistics_folder=None)
        pruner.prune(layers=drop, protect="first,last")
        pruner.save_pretrained(tmp_path / name)
    on_disk = load(tmp_path / "second")
    assert on_disk.config.text_config.mlp_only_layers == []
    assert torch.equal(logits(on_disk), logits(cut(dense, (1, 2, 3, 5))))
