"""Loading and cutting: strict about keys, one line when something is wrong, the source left whole."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from hf_layerprune.errors import ModelError, UsageError
from hf_layerprune.families import family_for
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import chat_prompt, load_processor
from hf_layerprune.models.decoder import decoder_layers, without_layers
from hf_layerprune.models.loading import SourceModel, check_loads, choose_device, choose_dtype, load_model
from tests.tiny_checkpoint import make_checkpoint, make_config, make_tensors, write_safetensors

FAMILY = family_for(make_config(), "test")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "tiny")


def set_depth(folder: Path, layers: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))


def test_a_checkpoint_that_fits(tiny: Path) -> None:
    check_loads(tiny)
    model = load_model(tiny)
    assert model.dtype == torch.bfloat16 and not model.training
    assert load_model(tiny, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("layers", "word"), [(7, "missing model.language_model.layers.6."), (5, "unexpected model.language_model.layers.5.")]
)
def test_a_wrong_depth_is_told(tiny: Path, layers: int, word: str) -> None:
    """transformers itself only logs it."""
    set_depth(tiny, layers)
    with pytest.raises(ModelError, match=word):
        check_loads(tiny)


def test_a_wrong_shape_is_told(tiny: Path) -> None:
    tensors = make_tensors(make_config())
    name = "model.language_model.layers.2.mlp.up_proj.weight"
    tensors[name] = tensors[name][:-1]
    write_safetensors(tiny / "model.safetensors", tensors)
    with pytest.raises(ModelError, match=r"(mismatched|size).*") as caught:
        check_loads(tiny)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", ["no weights", "no config", "bad config", "cut weights", "unknown model"])
def test_what_does_not_load_is_one_line(tiny: Path, spoil: str) -> None:
    weights = tiny / "model.safetensors"
    if spoil == "no weights":
        weights.unlink()
    elif spoil == "no config":
        (tiny / "config.json").unlink()
    elif spoil == "bad config":
        (tiny / "config.json").write_text("{")
    elif spoil == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (tiny / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError, match=r"transformers cannot load the model: .") as caught:
        check_loads(tiny)
    assert "\n" not in str(caught.value)


def test_transformers_is_as_talkative_as_before(tiny: Path) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    check_loads(tiny)
    (tiny / "config.json").unlink()
    with pytest.raises(ModelError):
        check_loads(tiny)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for device in ("tpu", "cuda:99", "", "meta meta"):
        with pytest.raises(ModelError, match=r"cannot be used here.*--device"):
            choose_device(device)


def test_dtypes() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu) == torch.float32 and choose_dtype("auto", gpu) == "auto"
    assert choose_dtype("bfloat16", cpu) == choose_dtype("bfloat16", gpu) == torch.bfloat16
    for dtype in ("int8", "float33", "nn", "Tensor", "", "__doc__"):
        with pytest.raises(UsageError, match="expected auto, float32"):
            choose_dtype(dtype, cpu)


def test_the_source_model_is_loaded_once_for_each_dtype(tiny: Path) -> None:
    source = SourceModel(tiny)
    first = source.for_probing("auto", "cpu")
    assert first.dtype == torch.float32 and source.for_probing("float32", "cpu") is first
    second = source.get("auto")
    assert second is not first and second.dtype == torch.bfloat16 and source.get("auto") is second


def test_cutting_leaves_the_source_whole(tiny: Path) -> None:
    model = load_model(tiny, dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = make_config(layers=3) | {"layer_pruning": {"kept_layers": [0, 2, 5]}}
    shorter = without_layers(model, FAMILY, [0, 2, 5], config)
    assert [layer.self_attn.layer_idx for layer in decoder_layers(shorter, FAMILY)] == [0, 1, 2]
    assert shorter.config.text_config.num_hidden_layers == 3 and shorter.config.layer_pruning == {"kept_layers": [0, 2, 5]}
    assert [layer.self_attn.layer_idx for layer in decoder_layers(model, FAMILY)] == list(range(6))
    assert model.config.text_config.num_hidden_layers == 6 and not hasattr(model.config, "layer_pruning")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    owned = {parameter.data_ptr() for parameter in model.parameters()}
    assert all(parameter.data_ptr() in owned for parameter in shorter.parameters())  # no weight is there twice
    assert shorter.lm_head.weight is shorter.model.language_model.embed_tokens.weight  # tied as before


@pytest.mark.parametrize("module", ["model.text_model.layers", "model.language_model", "model.visual.merger"])
def test_a_model_that_is_not_built_as_its_family_says(tiny: Path, module: str) -> None:
    with pytest.raises(ModelError, match="Qwen3VLForConditionalGeneration"):
        decoder_layers(load_model(tiny), replace(FAMILY, module=module))


def test_a_processor_can_be_sent_to_another_process() -> None:
    processor = load_processor(model_path())
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.get_attributes() == processor.get_attributes()
    image = Image.new("RGB", (64, 64), "red")
    texts = [chat_prompt(processor, "What is it?")]
    one, two = (p(text=texts, images=[[image]], return_tensors="pt") for p in (processor, copy))
    assert all(torch.equal(one[key], two[key]) for key in one) and one.keys() == two.keys()


def test_all_that_does_not_fit_is_counted_and_some_of_it_named(tiny: Path) -> None:
    """A layer missing in the middle and a tensor that no module takes: one error says both."""
    tensors = make_tensors(make_config())
    for name in [name for name in tensors if ".layers.4." in name]:
        tensors[name.replace(".layers.4.", ".strayed.4.")] = tensors.pop(name)
    write_safetensors(tiny / "model.safetensors", tensors)
    with pytest.raises(ModelError, match=r"missing model\.language_model\.layers\.4\..*\(22 in all\)\. Correct config\.json") as caught:
        SourceModel(tiny).get("auto")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
