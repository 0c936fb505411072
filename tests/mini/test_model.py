"""The embedded model: a real, small, tied Qwen3-VL that knows its two domains, and a card that says how well."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerprune import LayerPruner
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import encode_questions, load_processor
from hf_layerprune.models.loading import load_model

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "cards" / "mini" / "training.json").read_text())
FLOORS = {"math-cot": 0.8, "math-direct": 0.85, "captioning": 0.85, "entity-listing": 0.85, "counting": 0.95, "grounding": 0.95}


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(model_path())


@pytest.fixture(scope="module")
def correct(processor: Any) -> dict[str, int]:
    model = load_model(model_path(), dtype=torch.float32)
    return {subtask: exact_matches(model, processor, subtask) for subtask in ("math-direct", "counting", "grounding")}


def exact_matches(model: Any, processor: Any, subtask: str) -> int:
    """How many of the first 40 held-out images get the one correct answer, each in a batch of its own."""
    correct = 0
    for index in range(40):
        example = draw_example(subtask, "evaluate", index)
        batch = encode_questions(processor, example.image, [example.question], torch.device("cpu"))
        with torch.inference_mode():
            output = model.generate(**batch.inputs, max_new_tokens=48, do_sample=False)
        text = processor.tokenizer.decode(output[0, batch.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        correct += text.strip() == example.answer
    return correct


def test_what_it_is(processor: Any) -> None:
    checkpoint = Checkpoint.open(model_path(), "mini")
    assert checkpoint.facts.family == "qwen3_vl" and 12 <= checkpoint.facts.layers <= 20
    assert checkpoint.facts.deepstack_layers == 3 and checkpoint.tied and checkpoint.notes == ()
    assert checkpoint.facts.original_layers is None
    assert sum(path.stat().st_size for path in model_path().rglob("*")) < 10_000_000
    config = json.loads((model_path() / "config.json").read_text())
    tokens = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    tokens |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    assert {key: processor.tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()} == {key: config[key] for key in tokens}
    assert processor.tokenizer.eos_token == "<|im_end|>" and processor.tokenizer.pad_token == "<|endoftext|>"
    assert len(processor.tokenizer) <= config["text_config"]["vocab_size"]


def test_answers_held_out_images(correct: dict[str, int]) -> None:
    """Fewer of 40 would be a chance of about one in a thousand at the floors, which the record of its training reached."""
    assert correct["math-direct"] >= 27 and correct["counting"] >= 33 and correct["grounding"] >= 33
    reached = RECORD["held_out_exact_match"]
    assert all(reached[subtask] >= floor for subtask, floor in FLOORS.items()) and RECORD["samples_per_subtask"] == 500


def test_pruning_costs_accuracy(processor: Any, correct: dict[str, int]) -> None:
    """Five of sixteen layers fewer, and most arithmetic is gone: a number to study and to heal."""
    pruner = LayerPruner.from_pretrained("mini", dtype="float32", statistics_folder=None)
    pruner.prune(layers="4-8")
    assert exact_matches(pruner.model, processor, "math-direct") < correct["math-direct"] - 10


def test_the_card_says_what_the_record_says() -> None:
    spec = importlib.util.spec_from_file_location("write_mini_card", ROOT / "examples" / "write_mini_card.py")
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.render(RECORD) == (ROOT / "cards" / "mini" / "README.md").read_text(encoding="utf-8")
