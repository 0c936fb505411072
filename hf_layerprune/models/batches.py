"""Pictures and questions about them, as the batch of tensors that a vision-language model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from hf_layerprune.errors import ModelError, first_line


@dataclass(frozen=True)
class ImageBatch:
    """Model inputs of B samples of at most T tokens, padded on one side, with the real and the visual tokens marked."""

    inputs: dict[str, Tensor]
    real: Bool[Tensor, "batch token"]
    visual: Bool[Tensor, "batch token"]


def encode_questions(processor: Any, image: Image.Image, questions: Sequence[str], device: torch.device) -> ImageBatch:
    """Each question as one user message, the image first, then the text (paper, appendix A.1), with the generation prompt (ours)."""
    return _encode(processor, [image] * len(questions), questions, "right", device)


def encode_for_answers(processor: Any, images: Sequence[Image.Image], questions: Sequence[str], device: torch.device) -> ImageBatch:
    """Each question about a picture of its own, padded on the left, so that every answer begins at the same place."""
    return _encode(processor, images, questions, "left", device)


def _encode(processor: Any, images: Sequence[Image.Image], questions: Sequence[str], side: str, device: torch.device) -> ImageBatch:
    texts = [chat_prompt(processor, question) for question in questions]
    each = [[image] for image in images]
    inputs = processor(text=texts, images=each, padding=True, padding_side=side, return_tensors="pt").to(device)
    return ImageBatch(dict(inputs), inputs["attention_mask"].bool(), inputs["input_ids"] == processor.image_token_id)


def chat_prompt(processor: Any, question: str) -> str:
    """The text of one user message with one picture through the checkpoint's own template, in transformers' sandbox."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    try:
        return str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a stranger's template may raise anything
        raise ModelError(f"the checkpoint's chat template cannot be used: {first_line(error)}.") from error
