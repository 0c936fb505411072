"""A family of another package: Qwen2.5-VL in a dozen lines, found by entry point, in each of the forms that its checkpoints have."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hf_layerprune import LayerPruner
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError, FamilyError, ModelError
from hf_layerprune.families import family_for
from hf_layerprune.healing.weights import TrainedWeights, write_merged
from hf_layerprune.models.loading import load_model
from tests.test_golden import bypassed, load, logits
from tests.tiny_inputs import one_batch

FAMILY = """
from hf_layerprune.families.family import Family, ImageTokens, Layout

FAMILY = Family(
    model_type="qwen2_5_vl",
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    layouts=(
        Layout("model.", ("visual.",), "visual.blocks."),
        Layout("model.language_model.", ("model.visual.",), "model.visual.blocks."),
    ),
    module="model.language_model.layers",
    images=ImageTokens("Qwen2_5_VLProcessor"),
    text=("text_config", ""),
    per_layer=("layer_types",),
    other_lists=("rope_scaling.mrope_section", "rope_parameters.mrope_section", "vision_config.fullatt_block_indexes"),
    required={"use_sliding_window": False},
    vision_depth="vision_config.depth",
)
"""
LAYERS = 6
DROPS = [(2,), (1, 4), (0, 3, 5)]
INPUTS = one_batch([(4, 4, 3), (4, 8, 11), (2, 2, 6)])


def install(site: Path, package: str, entry: str, code: str) -> None:
    """What pip leaves of a package: a module and its metadata."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{package}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hf_layerprune.families]\n{entry} = {package}:FAMILY\n")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "layerprune_qwen25", "qwen2_5_vl", FAMILY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture(scope="module")
def dense() -> PreTrainedModel:
    """A random model of 6 layers, fp32, that no list of lengths fits by chance."""
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {
        "vocab_size": 96,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "window_size": 16}
    vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [1]}
    tokens = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens))
    for parameter in model.parameters():
        # transformers' own initial values leave layers next to no effect. bf16 on disk: tensors of the same type are views into the file.
        parameter.data = nn.init.normal_(parameter.data, std=0.2).bfloat16().float()
    return model.eval()


@pytest.fixture(params=["as on the Hub", "names as on the Hub", "transformers 5"])
def source(request: pytest.FixtureRequest, dense: PreTrainedModel, tmp_path: Path) -> Path:
    """The model on disk: old names and a flat config, old names and a config with sections, or the names in memory."""
    folder = tmp_path / "source"
    copy.deepcopy(dense).bfloat16().save_pretrained(folder, save_original_format=request.param != "transformers 5")
    names = {name.split("layers.")[0] for name in load_file(folder / "model.safetensors") if ".layers." in name}
    assert names == {"model.language_model." if request.param == "transformers 5" else "model."}
    config = json.loads((folder / "config.json").read_text())
    if request.param == "as on the Hub":
        text = config.pop("text_config")
        config |= {key: value for key, value in text.items() if key not in ("model_type", "layer_types")}
        (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load(folder), INPUTS), logits(dense, INPUTS))
    return folder


def test_without_the_package_the_family_is_not_known(source: Path) -> None:
    with pytest.raises(FamilyError, match=r"'qwen2_5_vl' is not declared\..*, or in a package of its own"):
        Checkpoint.open(source, "tiny")


@pytest.mark.usefixtures("plugin")
def test_a_pruned_model_computes_what_its_source_does_without_the_layers(source: Path, dense: PreTrainedModel, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(source, "tiny")
    assert (checkpoint.facts.layers, checkpoint.facts.deepstack_layers, checkpoint.tied, checkpoint.notes) == (LAYERS, 0, False, ())
    for drop in DROPS:
        pruner = LayerPruner.from_pretrained(source, dtype="float32", statistics_folder=None)
        pruner.prune(layers=drop, force=True)
        output = tmp_path / f"without {drop}"
        pruner.save_pretrained(output)
        assert verify(output, checkpoint).ok and Checkpoint.open(output, "pruned").facts.layers == LAYERS - len(drop)
        on_disk = load(output)
        assert len(on_disk.model.language_model.layers) == LAYERS - len(drop)
        with bypassed(dense, drop):
            expected = logits(dense, INPUTS)
        assert torch.equal(logits(on_disk, INPUTS), expected) and torch.equal(logits(pruner.model, INPUTS), expected)
        assert not torch.equal(expected, logits(dense, INPUTS))
    inputs = one_batch([(4, 4, 3)])
    texts = [model.generate(**inputs, max_new_tokens=5, do_sample=False).tolist() for model in (pruner.model, on_disk)]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("plugin")
def test_trained_weights_are_written_by_their_names_on_disk(source: Path, tmp_path: Path) -> None:
    """Trained by the names in memory, which are others than those of two of the three checkpoints."""
    module = "model.language_model.layers.1.mlp.up_proj"
    adapter = {f"{module}.lora_A.weight": torch.ones(2, 32), f"{module}.lora_B.weight": torch.ones(48, 2)}
    save_file(adapter, tmp_path / "trained.safetensors")
    weights = TrainedWeights(tmp_path / "trained.safetensors", 0.5)
    write_merged(Checkpoint.open(source, "tiny"), weights, tmp_path / "out", overwrite=False, records={})
    before, after = load(source).state_dict(), load(tmp_path / "out").state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [f"{module}.weight"]
    assert torch.equal(after[f"{module}.weight"], (before[f"{module}.weight"] + 1).bfloat16().float())


def move(tensors: dict[str, Any], old: str, new: str) -> None:
    for name in [name for name in tensors if name.startswith(old)]:
        tensors[new + name[len(old) :]] = tensors.pop(name)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "both layouts": (
        lambda t: move(t, "model.layers.3.", "model.language_model.layers.3."),
        "stand under both 'model.layers.' and",
    ),
    "another layout's end": (lambda t: move(t, "model.norm", "model.language_model.norm"), "tensors are missing, 1: 'model.norm.weight'"),
    "no vision": (
        lambda t: [t.pop(n) for n in list(t) if n.startswith("visual.")],
        "3, but the tensors hold 0 vision layers",
    ),
    "no head": (
        lambda t: t.pop("lm_head.weight"),
        "1: 'lm_head.weight'. If the model shares it with the embeddings, set tie_word_embeddings",
    ),
}


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("source", ["as on the Hub"], indirect=True)
@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_does_not_fit_is_refused(source: Path, damage: Callable[[dict[str, Any]], object], message: str) -> None:
    tensors = load_file(source / "model.safetensors")
    damage(tensors)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(source, "tiny")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("source", ["as on the Hub"], indirect=True)
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_sliding_window", True, "'use_sliding_window' is True, expected False"),
        ("heads", [4] * LAYERS, "'heads' has 6 entries.* other_lists in the family 'qwen2_5_vl' of package 'layerprune_qwen25'"),
        ("num_hidden_layers", 7, "num_hidden_layers is 7, but the tensors hold 6 layers: layer 6 is missing"),
        ("architectures", ["Qwen2_5_VLModel"], "Declare it in the family 'qwen2_5_vl' of package"),
    ],
)
def test_a_flat_config_that_does_not_fit(source: Path, key: str, value: object, message: str) -> None:
    (source / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | {key: value}))
    with pytest.raises((FamilyError, CheckpointError), match=message):
        Checkpoint.open(source, "tiny")


@pytest.mark.parametrize("source", ["as on the Hub"], indirect=True)
def test_a_class_that_transformers_does_not_have(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = FAMILY.replace("vision_depth=", 'auto_class="AutoModelForNothing",\n    vision_depth=')
    install(tmp_path / "site", "other_class_family", "qwen2_5_vl", code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(ModelError, match="transformers has no AutoModelForNothing, which the family qwen2_5_vl is loaded with"):
        load_model(source)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("FAMILY = 3", "family 'other' of package 'broken_family' is no family: got int, expected a Family"),
        (FAMILY, "family 'other' of package 'broken_family' is no family: its model_type is 'qwen2_5_vl'"),
        ("import no_such_module", "family 'other' of package 'broken_family' cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    install(tmp_path / "site", "broken_family", "other", code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "broken_family", raising=False)
    with pytest.raises(FamilyError, match=message):
        family_for({"model_type": "other"}, "config.json")
    assert family_for({"model_type": "qwen3_vl"}, "config.json").model_type == "qwen3_vl"


def test_nobody_can_replace_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "cuckoo_family", "qwen3_vl", FAMILY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(FamilyError, match="two families are named 'qwen3_vl', of the packages hf-layerprune and cuckoo_family"):
        family_for({"model_type": "qwen3_vl"}, "config.json")
