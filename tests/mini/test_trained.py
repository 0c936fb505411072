"""The embedded model knows its two domains: greedy answers on held-out images, through the package's own loading and batching."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hf_layerprune import LayerPruner
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.models.loading import load_model
from hf_layerprune.models.processor import load_processor

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "cards" / "mini" / "training.json").read_text())
IMAGES = 40


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    path = LayerPruner.from_pretrained("mini", statistics_folder=None).checkpoint.path
    return load_model(path, dtype=torch.float32), load_processor(path)


def exact_matches(model: Any, processor: Any, subtask: str) -> int:
    """How many of the first held-out images get the one correct answer, each in a batch of its own."""
    right = 0
    for index in range(IMAGES):
        example = draw_example(subtask, "evaluate", index)
        batch = encode_questions(processor, example.image, [example.question], torch.device("cpu"))
        with torch.inference_mode():
            output = model.generate(**batch.inputs, max_new_tokens=48, do_sample=False)
        text = processor.tokenizer.decode(output[0, batch.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += text.strip() == example.answer
    return right


FLOORS = {"math-cot": 0.8, "math-direct": 0.85, "captioning": 0.85, "entity-listing": 0.85, "counting": 0.95, "grounding": 0.95}


@pytest.mark.parametrize("subtask", FLOORS)
def test_the_record_says_what_was_to_be_reached(subtask: str) -> None:
    assert RECORD["held_out_exact_match"][subtask] >= FLOORS[subtask] and RECORD["samples_per_subtask"] == 500


@pytest.mark.parametrize(("subtask", "least"), [("math-direct", 27), ("counting", 33), ("grounding", 33)])
def test_answers_held_out_images(mini: tuple[Any, Any], subtask: str, least: int) -> None:
    """Fewer of 40 would be a chance of about one in a thousand at the floors."""
    assert exact_matches(*mini, subtask) >= least


def test_pruning_costs_accuracy(mini: tuple[Any, Any]) -> None:
    """Five of sixteen layers fewer, and most arithmetic is gone: a number to study and to heal."""
    pruner = LayerPruner.from_pretrained("mini", dtype="float32", statistics_folder=None)
    pruner.prune(layers="4-8")
    assert exact_matches(pruner.model, mini[1], "math-direct") < exact_matches(*mini, "math-direct") - 10


def test_the_card_says_what_the_record_says() -> None:
    assert _example("write_mini_card").render(RECORD) == (ROOT / "cards" / "mini" / "README.md").read_text(encoding="utf-8")


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
