"""Samples of different lengths as one batch that the model takes: padding changes no loss, images may be absent."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from hf_layerprune.healing.conversations import Conversation, ImageRef, Turn
from hf_layerprune.healing.encoding import ChatEncoder, Collator
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model

PROCESSOR = load_processor(model_path())
ENCODER = ChatEncoder.of(PROCESSOR, 512)


def sample(question: str, answer: str, *colors: str) -> dict[str, Tensor]:
    images = [ImageRef(Image.new("RGB", (64, 64), color), None, "x") for color in colors]
    return ENCODER.encode(Conversation("x", (Turn("user", (*images, question)), Turn("assistant", (answer,)))))


SAMPLES = [sample("How many?", "3", "red"), sample("hello there, how are you", "well"), sample("a", "b", "blue", "green")]


PADDING = json.loads((model_path() / "config.json").read_text())["text_config"]["pad_token_id"]


def test_padded_on_the_right() -> None:
    batch = Collator.of(PROCESSOR)(SAMPLES)
    longest = max(len(one["input_ids"]) for one in SAMPLES)
    fillers = {"input_ids": PADDING, "labels": -100, "attention_mask": 0, "mm_token_type_ids": 0}
    for key, filler in fillers.items():
        expected = [one[key].tolist() + [filler] * (longest - len(one[key])) for one in SAMPLES]
        assert batch[key].tolist() == expected
    assert batch["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    assert torch.equal(batch["pixel_values"], torch.cat([SAMPLES[0]["pixel_values"], SAMPLES[2]["pixel_values"]]))


def test_no_image_at_all() -> None:
    assert set(Collator.of(PROCESSOR)([SAMPLES[1], SAMPLES[1]])) == {"input_ids", "labels", "attention_mask", "mm_token_type_ids"}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.mark.parametrize("chosen", [(0, 1, 2), (1,), (1, 1), (2, 0), (1, 0)])
def test_the_models_loss_is_that_of_its_samples_alone(model: PreTrainedModel, chosen: tuple[int, ...]) -> None:
    """The mean over all answer tokens of a batch is that of the samples', weighted by their numbers."""
    collate = Collator.of(PROCESSOR)
    with torch.no_grad():
        losses = [(float(model(**collate([SAMPLES[one]])).loss), int((SAMPLES[one]["labels"] >= 0).sum())) for one in chosen]
        together = float(model(**collate([SAMPLES[one] for one in chosen])).loss)
    assert together == pytest.approx(sum(loss * count for loss, count in losses) / sum(count for _, count in losses), rel=1e-4)
