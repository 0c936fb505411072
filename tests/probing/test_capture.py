"""Capture: what the hooks sum up over a padded batch is what numpy sums up over its samples, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune.artifacts.prompts import prompts
from hf_layerprune.mini.generator import draw_image
from hf_layerprune.models.batches import ImageBatch, encode_questions
from hf_layerprune.probing.capture import SampleSums, recording
from tests.layer_traces import Expected, expected, trace
from tests.tiny_inputs import IMAGE, one_batch, one_sample

SAMPLES = [(4, 4, 3), (4, 8, 11), (2, 2, 6), (6, 4, 1)]  # 8 to 23 tokens; the batch pads all but one


def capture(model: PreTrainedModel, batch: ImageBatch) -> SampleSums:
    with torch.inference_mode(), recording(model.model.language_model.layers) as recorder:
        recorder.begin(batch.real, batch.visual)
        model(**batch.inputs, use_cache=False, logits_to_keep=1)
    return recorder.sums()


def tiny_batch() -> ImageBatch:
    inputs = one_batch(SAMPLES)
    return ImageBatch(inputs, inputs["attention_mask"].bool(), inputs["input_ids"] == IMAGE)


def assert_same(sums: SampleSums, sample: int, wanted: Expected) -> None:
    """fp32 in two orders of addition differs in the seventh digit; sums of up to 1,400 cosines in the third after the point."""
    for field in fields(Expected):
        found, value = getattr(sums, field.name)[sample], getattr(wanted, field.name)
        assert found.shape == value.shape, field.name
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-5, err_msg=field.name)


def test_every_sum_of_a_padded_batch(tiny_model: PreTrainedModel) -> None:
    sums = capture(tiny_model, tiny_batch())
    for number, sample in enumerate(SAMPLES):
        inputs = one_sample(sample)
        visual = (inputs["input_ids"][0] == IMAGE).numpy()
        assert visual.sum() == sample[0] * sample[1] // 4
        assert_same(sums, number, expected(trace(tiny_model, inputs), visual))


@pytest.mark.parametrize("domain", ["math", "nonmath"])
def test_every_sum_of_mini_asked_all_questions(mini_model: PreTrainedModel, mini_processor: ProcessorMixin, domain: str) -> None:
    questions, image = list(prompts()[domain].values()), draw_image(domain, "probe", 3)
    batch = encode_questions(mini_processor, image, questions, torch.device("cpu"))
    assert len(set(batch.real.sum(1).tolist())) > 1
    sums = capture(mini_model, batch)
    assert sums.problem() is None
    for number, question in enumerate(questions):
        alone = encode_questions(mini_processor, image, [question], torch.device("cpu"))
        assert_same(sums, number, expected(trace(mini_model, alone.inputs), alone.visual[0].numpy()))


def test_both_sides_are_recorded(tiny_model: PreTrainedModel) -> None:
    """DeepStack adds visual features after layers 0 and 1: what leaves them is not what enters the next layer."""
    sums = capture(tiny_model, tiny_batch())
    gap = np.abs(sums.output_pool[:, :-1] - sums.input_pool[:, 1:]).max((0, 2))
    assert (gap[:2] > 1e-2).all() and (gap[2:] == 0).all()


def test_each_layer_shape(tiny_model: PreTrainedModel) -> None:
    sums = capture(tiny_model, tiny_batch())
    lower = np.tril_indices(6, -1)
    assert (sums.last_token_cosine[:, *lower] == 0).all()
    np.testing.assert_allclose(sums.token_cosine[:, 0], sums.token_cosine[:, 1] + sums.token_cosine[:, 2], rtol=1e-12)
    assert all(getattr(sums, field.name).dtype == np.float64 for field in fields(Expected))


def hooks_left(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_gone_after_success_and_after_failure(tiny_model: PreTrainedModel) -> None:
    batch = tiny_batch()
    capture(tiny_model, batch)
    assert hooks_left(tiny_model) == 0
    with pytest.raises(Exception, match=r"(?i)image"), recording(tiny_model.model.language_model.layers):
        assert hooks_left(tiny_model) == 6
        tiny_model(**batch.inputs | {"pixel_values": batch.inputs["pixel_values"][:4], "image_grid_thw": torch.tensor([[1, 2, 2]])})
    assert hooks_left(tiny_model) == 0
    with pytest.raises(KeyboardInterrupt), recording(tiny_model.model.language_model.layers):
        raise KeyboardInterrupt
    assert hooks_left(tiny_model) == 0


def _nan(output: Tensor) -> None:
    output[2, 1, 5] = torch.nan


def _infinite(output: Tensor) -> None:
    output[2, 4] = torch.inf


def _zero_token(output: Tensor) -> None:
    output[2, 3] = 0


def _constant(output: Tensor) -> None:
    output[2] = torch.linspace(-1, 1, output.shape[-1])


def _zero(output: Tensor) -> None:
    output[2] = 0


@pytest.mark.parametrize("spoil", [_nan, _infinite, _zero_token, _constant, _zero])
@pytest.mark.parametrize("layer", [0, 3, 5])
def test_a_spoilt_layer_is_named(tiny_model: PreTrainedModel, spoil: Callable[[Tensor], None], layer: int) -> None:
    """The third sample of four is spoilt in one layer's output; the samples around it are not."""

    def hook(module: object, args: object, output: Tensor) -> Tensor:
        spoilt = output.clone()
        spoil(spoilt)
        return spoilt

    handle = tiny_model.model.language_model.layers[layer].register_forward_hook(hook)
    try:
        problem = capture(tiny_model, tiny_batch()).problem()
    finally:
        handle.remove()
    assert problem is not None and problem[:2] == (2, layer)


def test_padding_is_no_problem_of_a_sample(tiny_model: PreTrainedModel) -> None:
    """NaN where nothing but padding is changes no sum: sample 2 has 10 tokens, and its row goes on for 10 more."""
    batch = tiny_batch()
    clean, real = capture(tiny_model, batch), batch.real
    assert not real[2, -1]

    def hook(module: object, args: object, output: Tensor) -> Tensor:
        return torch.where(real[..., None], output, torch.nan)

    handle = tiny_model.model.language_model.layers[5].register_forward_hook(hook)
    try:
        spoilt = capture(tiny_model, batch)
    finally:
        handle.remove()
    assert spoilt.problem() is None
    assert np.array_equal(spoilt.cosine, clean.cosine) and np.array_equal(spoilt.output_pool, clean.output_pool)
