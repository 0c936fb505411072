"""The golden test: a pruned checkpoint computes, bit for bit, what its source computes with the layers cut out in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from hf_layerprune import LayerPruner
from tests.tiny_checkpoint import make_checkpoint
from tests.tiny_inputs import one_batch, one_sample

LAYERS, TAPS = 8, 3
OTHERS = [(3,), (6,), (3, 4), (4, 6), (3, 4, 5, 6)]
DEEPSTACK = [(1,), (2,), (1, 2), (1, 4), (2, 3, 6), (1, 2, 3, 4, 5)]  # the last leaves as many layers as there are features
FORCED = [(0,), (7,), (0, 7), (0, 1, 2)]
INPUTS = one_batch([(4, 4, 3), (4, 8, 11), (2, 2, 6)])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 layers, 3 DeepStack taps, bf16 on disk."""
    return make_checkpoint(
        tmp_path_factory.mktemp("golden") / "source", layers=LAYERS, tied=False, shards=2, vision_config__deepstack_visual_indexes=[0, 1, 2]
    )


@pytest.fixture(scope="module")
def dense(source: Path) -> PreTrainedModel:
    return load(source)


def load(folder: Path) -> PreTrainedModel:
    """Plain transformers, nothing of ours; every key in its place."""
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def logits(model: PreTrainedModel, inputs: dict[str, Tensor] = INPUTS) -> Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def cut(model: PreTrainedModel, drop: tuple[int, ...]) -> PreTrainedModel:
    """A copy whose list of layers is shorter: DeepStack feature k is then added after the k-th kept layer."""
    shorter = copy.deepcopy(model)
    decoder = shorter.model.language_model
    decoder.layers = nn.ModuleList([layer for number, layer in enumerate(decoder.layers) if number not in drop])
    shorter.config.text_config.num_hidden_layers = len(decoder.layers)
    for number, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = number
    return shorter


@contextmanager
def bypassed(model: PreTrainedModel, drop: tuple[int, ...]) -> Iterator[None]:
    """Hooks that make the dropped layers return what they were given."""
    given: dict[nn.Module, Tensor] = {}

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given[layer] = args[0] if args else kwargs["hidden_states"]

    def after(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return given[layer]

    handles = []
    for number in drop:
        layer = model.model.language_model.layers[number]
        handles += [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("drop", [*OTHERS, *DEEPSTACK, *FORCED], ids=str)
@pytest.mark.filterwarnings("ignore:the plan drops")
def test_logits_equal_bit_for_bit(source: Path, dense: PreTrainedModel, tmp_path: Path, drop: tuple[int, ...]) -> None:
    pruner = LayerPruner.from_pretrained(source, dtype="float32", statistics_folder=None)
    pruner.prune(layers=drop, protect="first,last", force=drop in FORCED)
    pruner.save_pretrained(tmp_path / "pruned")
    on_disk = load(tmp_path / "pruned")
    assert len(on_disk.model.language_model.layers) == LAYERS - len(drop)
    found, wanted = logits(on_disk), logits(cut(dense, drop))
    assert torch.equal(found, wanted)
    assert torch.equal(found, logits(pruner.model))
    assert not torch.equal(found, logits(dense))
    with bypassed(dense, drop):
        equal = torch.equal(found, logits(dense))
    assert equal == (min(drop) >= TAPS)  # a dropped DeepStack layer moves the features to other layers


@pytest.mark.parametrize("drop", [(3, 5), (1, 2), (1, 2, 3, 4, 5)], ids=str)
@pytest.mark.filterwarnings("ignore:the plan drops")
def test_generation_with_cache_equals_without(source: Path, tmp_path: Path, drop: tuple[int, ...]) -> None:
    pruner = LayerPruner.from_pretrained(source, dtype="float32", statistics_folder=None)
    pruner.prune(layers=drop, protect="first,last")
    pruner.save_pretrained(tmp_path / "pruned")
    inputs = one_sample((4, 8, 5))
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True}
    answers = []
    for model in (load(tmp_path / "pruned"), pruner.model):
        for use_cache in (True, False):
            answer = model.generate(**inputs, **options, use_cache=use_cache, output_logits=True)
            answers.append((answer.sequences, torch.stack(answer.logits)))
    for sequences, scores in answers[1:]:
        assert torch.equal(sequences, answers[0][0]) and sequences.shape[1] == inputs["input_ids"].shape[1] + 8
        torch.testing.assert_close(scores, answers[0][1], rtol=1e-4, atol=1e-4)


def test_bf16_as_the_checkpoint_is(source: Path, tmp_path: Path) -> None:
    """In the files' own dtype too: what LayerPruner holds in memory is what it writes."""
    pruner = LayerPruner.from_pretrained(source, statistics_folder=None)
    pruner.prune("random", 0.4, parameters={"seed": 3})
    pruner.save_pretrained(tmp_path / "pruned")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "pruned", dtype="auto").eval()
    assert model.dtype == pruner.model.dtype == torch.bfloat16
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in INPUTS.items()}
    assert torch.equal(logits(model, inputs), logits(pruner.model, inputs))
