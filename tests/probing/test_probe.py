"""The probe as a whole: its statistics are what numpy makes of each image and question, taken one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune import LayerPruner, LayerStatistics
from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.prompts import prompts
from hf_layerprune.data.records import Tolerance
from hf_layerprune.errors import DataError, ProbeError
from hf_layerprune.mini.generator import draw_image
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.probing.probe import ProbedModel, _forward, probe
from hf_layerprune.probing.probe_set import ProbeSet, read_statistics, synthetic_probe_set
from tests.layer_traces import expected, trace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return LayerPruner.from_pretrained("mini", statistics_folder=None).facts


@pytest.fixture
def loaded(mini_model: PreTrainedModel, mini_processor: ProcessorMixin) -> ProbedModel:
    return ProbedModel(mini_model, mini_processor, mini_model.model.language_model.layers, {"test": True})


def run(facts: ModelFacts, loaded: ProbedModel, images: ProbeSet, max_bad: str = "1%", **options: Any) -> LayerStatistics:
    return probe(facts, images, lambda: loaded, Tolerance.parse(max_bad), **options)


def test_statistics_are_the_sums_over_samples(facts: ModelFacts, loaded: ProbedModel) -> None:
    statistics = run(facts, loaded, synthetic_probe_set(64, 2))
    names = [name for domain in ("math", "nonmath") for name in prompts()[domain]]
    assert statistics.subtasks == tuple(names) and statistics.samples.tolist() == [2] * 9
    means = {"math": [], "nonmath": []}
    for row, name in enumerate(names):
        domain = "math" if row < 5 else "nonmath"
        parts = []
        for number in range(2):
            alone = encode_questions(loaded.processor, draw_image(domain, "probe", number), [prompts()[domain][name]], CPU)
            parts.append(expected(trace(loaded.model, alone.inputs), alone.visual[0].numpy()))
        means[domain] += [part.cosine[0] for part in parts]
        np.testing.assert_array_equal(statistics.tokens[row], sum(part.tokens for part in parts))
        for field in ("cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool"):
            wanted, found = sum(getattr(part, field) for part in parts), getattr(statistics, f"{field}_sum")[row]
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-4, err_msg=f"{field} of {name}")
        squares = sum(part.cosine**2 for part in parts)
        np.testing.assert_allclose(statistics.cosine_square_sum[row], squares, rtol=2e-5, atol=1e-5)
    for domain, rows in means.items():  # eq. 7: the mean over samples, whatever their length
        np.testing.assert_allclose(statistics.cosine(domain), np.mean(rows, 0), rtol=1e-5)


@contextmanager
def failing(loaded: ProbedModel, most: int, error: Exception) -> Iterator[None]:
    """A model that fails in batches of more than `most`."""

    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if len(output) > most:
            raise error

    handle = loaded.layers[3].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("most", [3, 2, 1])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_halves_the_batch_and_says_so_once(facts: ModelFacts, loaded: ProbedModel, most: int, error: Exception) -> None:
    images, said, done = synthetic_probe_set(64, 2), [], []
    whole = run(facts, loaded, images)
    with failing(loaded, most, error):
        halved = run(facts, loaded, images, say=said.append, progress=lambda n, total: done.append(n))
    assert [line.split()[-1] for line in said] == {3: ["3"], 2: ["3", "2"], 1: ["3", "2", "1"]}[most]
    assert done == [0, 1, 2, 3, 4] and halved.samples.tolist() == [2] * 9
    np.testing.assert_allclose(halved.cosine_sum, whole.cosine_sum, rtol=1e-5)
    assert halved.record.skipped_count == {"math": 0, "nonmath": 0}


def test_out_of_memory_with_a_single_question(facts: ModelFacts, loaded: ProbedModel) -> None:
    said = r"synthetic math 0: out of memory with a single question.*--dtype bfloat16"
    with failing(loaded, 0, torch.OutOfMemoryError("CUDA out of memory")), pytest.raises(ProbeError, match=said):
        run(facts, loaded, synthetic_probe_set(64, 1))
    assert not any(layer._forward_hooks for layer in loaded.layers)
    with failing(loaded, 0, RuntimeError("shapes cannot be multiplied")), pytest.raises(RuntimeError, match="shapes"):
        run(facts, loaded, synthetic_probe_set(64, 1))  # another fault is not taken for it


@pytest.mark.parametrize(
    ("count", "share", "unusable", "stops"),
    [(32, "0.01", 1, True), (4, "0.25", 1, False), (4, "0.25", 2, True), (4, "0.5", 2, False), (3, "0.34", 1, False)],
)
def test_nan_counts_against_the_limit(facts: ModelFacts, loaded: ProbedModel, count: int, share: str, unusable: int, stops: bool) -> None:
    """floor(share x images of the domain) may be unusable: one of a hundred, and of 32 none."""
    left = [2 * unusable]  # a pass over what the questions share, and one over the rest

    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if left[0] == 0:
            return None
        left[0] -= 1
        return output * torch.nan

    handle = loaded.layers[7].register_forward_hook(hook)
    images = replace(synthetic_probe_set(64, count), sources={"math": synthetic_probe_set(64, count).sources["math"]})
    try:
        if stops:
            reason = rf"synthetic math {unusable - 1}: NaN.* decoder layer 7, asked math-cot. That makes {unusable} unusable of {count} "
            with pytest.raises(DataError, match=reason + "math"):
                run(facts, loaded, images, share)
            return
        statistics = run(facts, loaded, images, share)
    finally:
        handle.remove()
    assert statistics.samples.tolist() == [count - unusable] * 5  # all of an image's questions count, or none
    assert statistics.record.skipped_count == {"math": unusable}
    assert len(statistics.record.skipped) == unusable and "decoder layer 7" in statistics.record.skipped[0]
    assert np.isfinite(statistics.cosine("math")).all()


def test_a_stored_probe_goes_on_where_it_ended(facts: ModelFacts, loaded: ProbedModel, tmp_path: Path) -> None:
    """Interrupted at the third image: the first two are kept, and only the others are measured by the next run."""
    images = synthetic_probe_set(64, 3)
    store, other = images.entry(tmp_path, "model", {}), images.entry(tmp_path, "model", {"dtype": "bfloat16"})
    assert len({store.path, other.path, images.entry(tmp_path, "b", {}).path, synthetic_probe_set().entry(tmp_path, "model", {}).path}) == 4
    whole = run(facts, loaded, images)

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(facts, loaded, images, store=store, progress=interrupt)
    part = read_statistics(store.partial)
    assert part is not None and not store.path.exists()
    done = part.record.probe_set["done"]
    assert 1 <= done <= 3 and part.samples[0] == done
    calls: list[int] = []
    handle = loaded.model.base_model.register_forward_pre_hook(lambda module, args: calls.append(1))
    try:
        resumed = run(facts, loaded, images, store=store)
    finally:
        handle.remove()
    assert len(calls) == 6 - done
    assert resumed.content == whole.content == store.path.read_bytes()
    assert list(tmp_path.iterdir()) == [store.path]


@pytest.mark.parametrize("content", [b"", b"\x08", b"no statistics at all"])
def test_a_damaged_store_counts_as_empty(facts: ModelFacts, loaded: ProbedModel, tmp_path: Path, content: bytes) -> None:
    images = synthetic_probe_set(64, 1)
    store = images.entry(tmp_path, "model", {})
    for path in (store.path, store.partial):
        path.write_bytes(content)
    assert read_statistics(store.path) is None and read_statistics(store.partial) is None
    assert run(facts, loaded, images, store=store).samples.tolist() == [1] * 9
    assert read_statistics(store.path) is not None


def test_the_vision_tower_sees_an_image_once(facts: ModelFacts, loaded: ProbedModel) -> None:
    """Whatever the number of questions; what the decoder gets is what it gets of as many copies, up to rounding."""
    patches: list[int] = []
    handle = loaded.model.model.visual.register_forward_hook(lambda module, args, output: patches.append(len(args[0])))
    once = run(facts, loaded, synthetic_probe_set(64, 1))
    handle.remove()
    assert patches == [64, 64]  # an image a domain, of 8 by 8 patches
    copies = run(facts, replace(loaded, causal_prefix=False), synthetic_probe_set(64, 1))
    for name in ("token_cosine_sum", "triplet_cosine_sum", "last_token_cosine_sum", "input_pool_sum", "output_pool_sum"):
        np.testing.assert_allclose(getattr(once, name), getattr(copies, name), rtol=1e-5, atol=1e-5)


def test_large_images_are_scaled_down_and_said_once(facts: ModelFacts, loaded: ProbedModel) -> None:
    said: list[str] = []
    whole, small = (
        run(facts, replace(loaded, max_pixels=most), synthetic_probe_set(64, 2), say=said.append) for most in (64 * 64, 32 * 32)
    )
    assert said == ["note: images of more than 1,024 pixels are scaled down to that; --max-pixels changes it"]
    visual = small.tokens[:, 1] / small.samples, whole.tokens[:, 1] / whole.samples
    assert set(visual[0]) == {4} and set(visual[1]) == {16}


@pytest.mark.parametrize("domain", ["math", "nonmath"])
def test_what_questions_share_is_computed_once(loaded: ProbedModel, domain: str) -> None:
    """Cache and positions of a shared prefix give what whole passes give, and the head is never computed."""
    image, names = draw_image(domain, "probe", 5), list(prompts()[domain])
    seen: list[tuple[int, ...]] = []
    model: Any = loaded.model
    handles = [model.model.language_model.layers[0].register_forward_hook(lambda layer, args, output: seen.append(tuple(output.shape[:2])))]
    handles.append(model.lm_head.register_forward_hook(lambda head, args, output: seen.append(())))
    shared, whole = (_forward(replace(loaded, causal_prefix=causal), domain, names, image, "x") for causal in (True, False))
    for handle in handles:
        handle.remove()
    lengths = encode_questions(loaded.processor, image, [prompts()[domain][name] for name in names], CPU).real.sum(1)
    (one, first), (count, rest), (all_of_them, longest) = seen
    assert one == 1 and count == all_of_them == len(names) and first + rest == longest == lengths.max() and first >= 16 + 3
    for name in ("tokens", "cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool"):
        np.testing.assert_allclose(getattr(shared, name), getattr(whole, name), rtol=1e-5, atol=1e-5, err_msg=name)
