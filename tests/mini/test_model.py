"""The embedded model: a real, small, tied Qwen3-VL that has learned to look."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.models.loading import load_model
from hf_layerprune.models.processor import load_processor


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return load_processor(model_path())


def test_what_it_is() -> None:
    checkpoint = Checkpoint.open(model_path(), "mini")
    assert checkpoint.facts.family == "qwen3_vl" and 12 <= checkpoint.facts.layers <= 20
    assert checkpoint.facts.deepstack_layers == 3 and checkpoint.tied and checkpoint.notes == ()
    assert checkpoint.facts.original_layers is None
    assert sum(path.stat().st_size for path in model_path().rglob("*")) < 10_000_000


def test_it_has_the_special_tokens_of_the_real_ones(processor: ProcessorMixin) -> None:
    config = json.loads((model_path() / "config.json").read_text())
    tokens = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    tokens |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    for key, token in tokens.items():
        assert processor.tokenizer.convert_tokens_to_ids(token) == config[key]
    assert processor.tokenizer.eos_token == "<|im_end|>" and processor.tokenizer.pad_token == "<|endoftext|>"
    assert len(processor.tokenizer) <= config["text_config"]["vocab_size"]


@pytest.mark.parametrize("subtask", ["counting", "grounding"])
def test_it_sees(model: PreTrainedModel, processor: ProcessorMixin, subtask: str) -> None:
    """Far above chance on pictures it never saw (a sixth and a thirty-sixth); its card says exactly how good it is."""
    right = 0
    for index in range(10):
        example = draw_example(subtask, "evaluate", index)
        batch = encode_questions(processor, example.image, [example.question], torch.device("cpu"))
        answer = model.generate(**batch.inputs, max_new_tokens=12, do_sample=False)[0, batch.real.shape[1] :]
        right += processor.tokenizer.decode(answer, skip_special_tokens=True).strip() == example.answer
    assert right >= 7
