"""What we write loads in a process that has nothing of ours, with every key in its place, and generates."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_layerprune import LayerPruner
from hf_layerprune.errors import SourceError
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import encode_questions, load_processor
from tests.tiny_checkpoint import make_checkpoint
from tests.tiny_inputs import one_sample

LOADER = Path(__file__).with_name("plain_loader.py")
CLEAN: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}


def load_elsewhere(folder: Path, inputs: dict[str, torch.Tensor], cwd: Path) -> dict[str, Any]:
    torch.save(inputs, cwd / "inputs.pt")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", str(LOADER), str(folder), str(cwd / "inputs.pt")]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("source", ["mini", "untied"])
def test_loads_and_generates_without_us(tmp_path: Path, source: str) -> None:
    if source == "mini":
        example = draw_example("math-cot", "evaluate", 0)
        batch = encode_questions(load_processor(model_path()), example.image, [example.question], torch.device("cpu"))
        place, inputs = "mini", batch.inputs
    else:
        place, inputs = str(make_checkpoint(tmp_path / source, tied=False, shards=2)), one_sample((4, 8, 5))
    pruner = LayerPruner.from_pretrained(place, dtype="float32", statistics_folder=None)
    pruner.prune("random", 0.4)
    pruner.save_pretrained(tmp_path / "pruned")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    report = load_elsewhere(tmp_path / "pruned", inputs, elsewhere)
    assert report["alone"] and report["class"] == "Qwen3VLForConditionalGeneration"
    assert report["layers"] == pruner.facts.layers - len(pruner.plan.drop) < pruner.facts.layers
    assert report["AutoModelForImageTextToText"] == CLEAN
    # The bare model has no output layer, so that an untied one is surplus to it.
    assert report["AutoModel"] == CLEAN | ({"unexpected_keys": ["lm_head.weight"]} if source == "untied" else {})
    assert report["cached"] == report["uncached"] and len(report["cached"]) == 6
    model = pruner.model
    ours = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=[model.config.image_token_id])
    assert ours[0, inputs["input_ids"].shape[1] :].tolist() == report["cached"]


def test_pickled_weights_and_the_command_that_converts_them(tmp_path: Path) -> None:
    """The command in the error keeps every other file, and its result is pruned like any model."""
    shutil.copytree(model_path(), tmp_path / "pickled")
    torch.save(load_file(tmp_path / "pickled" / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="pickled PyTorch weights only") as caught:
        LayerPruner.from_pretrained(tmp_path / "pickled", statistics_folder=None)
    command = shlex.split(str(caught.value).split("first: ")[1].removesuffix(" and pass NEW."))
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True, capture_output=True, timeout=600)
    names = {path.name for path in model_path().iterdir() if path.is_file()}
    assert names <= {path.name for path in (tmp_path / "NEW").iterdir()}
    pruner = LayerPruner.from_pretrained(tmp_path / "NEW", statistics_folder=None)
    mini = LayerPruner.from_pretrained("mini", statistics_folder=None)
    for one in (pruner, mini):
        one.prune("random", 0.4)
        (tmp_path / f"of {one.checkpoint.id}").mkdir()
        one.save_pretrained(tmp_path / f"of {one.checkpoint.id}" / "pruned")
    tensors = [load_file(tmp_path / f"of {name}" / "pruned" / "model.safetensors") for name in ("NEW", "mini")]
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
