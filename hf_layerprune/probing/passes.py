"""One image with several questions through a model: what the questions share is computed once.

The image and the words before it come first, and in a causal decoder no token depends on what follows it. So one pass over the shared
tokens fills the cache, and one pass over each question's own tokens goes on from it (equal to full passes up to rounding).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from hf_layerprune.models.batches import ImageBatch
from hf_layerprune.probing.capture import LayerRecorder


def shared_length(batch: ImageBatch) -> int:
    """How many tokens all samples of a batch of one image begin with; 0 if that is not all of the image, or a sample has no more."""
    tokens: Int[Tensor, "batch token"] = batch.inputs["input_ids"]
    shortest = int(batch.real.sum(1).min())
    same = (tokens == tokens[:1]).all(0)[: shortest - 1]
    length = int(same.int().cumprod(0).sum())
    return length if len(tokens) > 1 and not batch.visual[:, length:].any() else 0


def run_shared(model: PreTrainedModel, batch: ImageBatch, recorder: LayerRecorder, length: int) -> None:
    """One pass of the first sample's first `length` tokens, one of the rest of every sample; no head is computed.

    batch: samples of one image, padded on the right, whose first `length` tokens are the same
    """
    base: Any = model.base_model
    samples, inputs = len(batch.real), batch.inputs
    positions = _positions(base, batch)
    images = {name: value[: len(value) // samples] for name, value in inputs.items() if name not in _token_keys(batch)}
    first = {name: inputs[name][:1, :length] for name in _token_keys(batch)}
    recorder.begin(batch.real[:1, :length], batch.visual[:1, :length])
    cache = base(**first, **images, position_ids=positions[..., :1, :length], use_cache=True).past_key_values
    cache.batch_repeat_interleave(samples)
    recorder.begin(batch.real[:, length:], batch.visual[:, length:])
    base.get_decoder()(
        inputs_embeds=base.get_input_embeddings()(inputs["input_ids"][:, length:]),
        attention_mask=inputs["attention_mask"],
        position_ids=positions[..., length:],
        past_key_values=cache,
        use_cache=True,
    )


def run_whole(model: PreTrainedModel, batch: ImageBatch, recorder: LayerRecorder) -> None:
    """One pass of all samples of one image from their beginnings, for decoders in which a token depends on what follows it."""
    recorder.begin(batch.real, batch.visual)
    model.base_model(**batch.inputs, use_cache=False)


def _token_keys(batch: ImageBatch) -> list[str]:
    """The inputs with one entry a token."""
    return [name for name, value in batch.inputs.items() if value.shape[:2] == batch.real.shape]


def _positions(base: Any, batch: ImageBatch) -> Int[Tensor, "..."]:
    """The positions of every token, [batch, token] or, by time, height and width, [3, batch, token]."""
    inputs = batch.inputs
    if not hasattr(base, "get_rope_index"):
        found: Tensor = torch.cumsum(inputs["attention_mask"], 1) - 1
        return found.clamp(min=0)
    return base.get_rope_index(**{name: value for name, value in inputs.items() if name != "pixel_values"})[0]  # type: ignore[no-any-return]
