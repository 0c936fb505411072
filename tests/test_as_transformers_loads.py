"""A folder is what transformers makes of it: kinds of checkpoints that people have, each pruned to what transformers itself would cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText

from hf_layerprune import LayerPruner
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.cli.main import Invocation, cli
from hf_layerprune.errors import CheckpointError, ModelError
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import encode_questions, load_processor
from hf_layerprune.models.loading import check_loads

DROP = [4, 5, 9]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Tensors = dict[str, Tensor]


def folder_of(path: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """mini with other tensors and other values in its config; None removes a key."""
    shutil.copytree(model_path(), path)
    if tensors is not None:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    found = json.loads((path / "config.json").read_bytes()) | config
    (path / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(model_path() / "model.safetensors")


def loaded(path: Path, auto: Any) -> nn.Module:
    model, info = auto.from_pretrained(path, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()  # type: ignore[no-any-return]


def output_of(model: Any) -> Tensor:
    example = draw_example("counting", "probe", 0)
    batch = encode_questions(load_processor(model_path()), example.image, [example.question], torch.device("cpu"))
    with torch.no_grad():
        found = model(**batch.inputs, use_cache=False)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state  # type: ignore[no-any-return]


def cut(model: Any) -> Any:
    """What transformers loaded, without the layers DROP."""
    text = model.base_model.language_model
    text.layers = nn.ModuleList(layer for number, layer in enumerate(text.layers) if number not in DROP)
    for number, layer in enumerate(text.layers):
        layer.self_attn.layer_idx = number
    text.config.num_hidden_layers = len(text.layers)
    return model


def base_names(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def in_two_shards(path: Path, tensors: Tensors, copies: int, change: float = 0) -> Path:
    """mini in two shards, of which the first holds some tensors of the second too."""
    folder_of(path)
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    half = len(names) // 2
    twice = {name: tensors[name] + change for name in names[half : half + copies]}
    save_file({name: tensors[name] for name in names[:half]} | twice, path / SHARDS[0], metadata={"format": "pt"})
    save_file({name: tensors[name] for name in names[half:]}, path / SHARDS[1], metadata={"format": "pt"})
    places = {name: SHARDS[place >= half] for place, name in enumerate(names)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


BASE = {"architectures": ["Qwen3VLModel"]}
KINDS: dict[str, tuple[Callable[[Path, Tensors], Path], Any]] = {
    "base class": (lambda path, tensors: folder_of(path, base_names(tensors), **BASE), AutoModelForImageTextToText),
    "base class, loaded as such": (lambda path, tensors: folder_of(path, base_names(tensors), **BASE), AutoModel),
    "base class, not tied": (lambda path, tensors: folder_of(path, base_names(tensors), **BASE, tie_word_embeddings=False), AutoModel),
    "names of the base class alone": (lambda path, tensors: folder_of(path, base_names(tensors)), AutoModelForImageTextToText),
    "no architectures": (lambda path, tensors: folder_of(path, tensors, architectures=None), AutoModelForImageTextToText),
    "tensors in two shards": (lambda path, tensors: in_two_shards(path, tensors, 10), AutoModelForImageTextToText),
    "a shard of copies alone": (lambda path, tensors: in_two_shards(path, tensors, 60), AutoModelForImageTextToText),
}


@pytest.mark.parametrize(("make", "auto"), KINDS.values(), ids=KINDS)
def test_the_output_is_what_transformers_loads_with_the_layers_cut(tmp_path: Path, tensors: Tensors, make: Any, auto: Any) -> None:
    source = make(tmp_path / "source", tensors)
    pruner = LayerPruner.from_pretrained(source, statistics_folder=None)
    pruner.prune(layers=DROP)
    pruner.save_pretrained(tmp_path / "pruned")
    assert torch.equal(output_of(loaded(tmp_path / "pruned", auto)), output_of(cut(loaded(source, auto))))
    assert verify(tmp_path / "pruned", pruner.checkpoint).ok
    check_loads(tmp_path / "pruned")


def test_a_model_without_a_head_is_measured_but_cannot_answer(tmp_path: Path, tensors: Tensors) -> None:
    source = folder_of(tmp_path / "source", base_names(tensors), **BASE, tie_word_embeddings=False)
    pruner = LayerPruner.from_pretrained(source, statistics_folder=None)
    plain = LayerPruner.from_pretrained("mini", dtype="float32", statistics_folder=None).probe(samples=1)
    assert (pruner.probe(samples=1, dtype="float32").token_cosine_sum == plain.token_cosine_sum).all()
    for act, done in ((pruner.evaluate, "evaluated"), (lambda: pruner.heal(tmp_path / "healed", data="mini,count=32"), "fine-tuned")):
        with pytest.raises(ModelError, match=f"Qwen3VLModel has no head, and generates no text: it can be pruned, but not {done}"):
            act()


def test_two_tensors_of_one_name(tmp_path: Path, tensors: Tensors) -> None:
    source = in_two_shards(tmp_path / "source", tensors, 3, change=0.5)
    with pytest.raises(CheckpointError, match=rf"{SHARDS[0]} and {SHARDS[1]} hold different tensors under one name, 3: .* save_pretrained"):
        Checkpoint.open(source, "mini")
    AutoModelForImageTextToText.from_pretrained(source).save_pretrained(tmp_path / "saved")
    assert len(Checkpoint.open(tmp_path / "saved", "mini").tensors) == len(tensors)


COMMANDS = {
    "inspect": ("inspect", "{source}"),
    "convert": ("convert", "{source}", "--layers", "4", "-o", "{out}"),
    "probe": ("probe", "{source}", "--samples", "1", "-o", "{out}"),
    "evaluate": ("evaluate", "{source}", "--tasks", "mini-math", "--samples", "5", "-o", "{out}"),
    "heal": ("heal", "{source}", "--data", "mini,count=32", "-o", "{out}"),
    "plan": ("plan", "{source}", "--method", "random", "-o", "{out}"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_tensors_that_the_model_has_no_place_for(tmp_path: Path, tensors: Tensors, command: tuple[str, ...]) -> None:
    """Every command says the same; what `transformers` itself saves of the model is taken."""
    value_head = {"v_head.summary.weight": torch.zeros(1, 128), "v_head.summary.bias": torch.zeros(1)}
    source = folder_of(tmp_path / "source", tensors | value_head)
    arguments = [part.format(source=source, out=tmp_path / "out") for part in command]
    error = CliRunner().invoke(cli, arguments, obj=Invocation()).exception
    said = "Qwen3VLForConditionalGeneration has no place for tensors, 2: 'v_head.summary.bias', 'v_head.summary.weight'"
    assert isinstance(error, CheckpointError) and said in str(error) and not (tmp_path / "out").exists()
    if command[0] == "convert":
        AutoModelForImageTextToText.from_pretrained(source).save_pretrained(source)
        assert CliRunner().invoke(cli, arguments, obj=Invocation()).exit_code == 0
        check_loads(tmp_path / "out")
