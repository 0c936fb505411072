"""The recipes hold the papers' numbers and take others; which layers they train, which samples a step takes, at which rate."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import UsageError
from hf_layerprune.healing.engine import rounds_per_step
from hf_layerprune.healing.recipes import DOMAIN_AWARE, INTERLACE, RECIPES, changed, described, recipe_named
from hf_layerprune.healing.request import layers_to_train, parse_tune_last, train_next
from hf_layerprune.healing.training import learning_rate, my_batches, steps_in
from hf_layerprune.healing.weights import PROJECTIONS


def test_the_papers_numbers() -> None:
    """Section 4.2 of arXiv 2603.20275; section 3.4 and the appendix of arXiv 2511.19676: 16 a device with 2 accumulation steps."""
    recipe = DOMAIN_AWARE
    assert (recipe.method, recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout) == ("lora", 32, 64, 0.05)
    assert (recipe.learning_rate, recipe.batch_size, recipe.weight_decay, recipe.epochs, recipe.max_length) == (2e-5, 64, 0.1, 1, 8192)
    recipe = INTERLACE
    assert (recipe.method, recipe.learning_rate, recipe.warmup_ratio, recipe.weight_decay) == ("layers", 1e-5, 0.03, 0)
    assert (recipe.micro_batch_size, recipe.batch_size, recipe.max_grad_norm) == (16, 16 * 2, 1.0)
    assert (recipe.precision, recipe.gradient_checkpointing, recipe.epochs) == ("bf16", "trained", 1)
    assert DOMAIN_AWARE.lora_targets.split() == [*PROJECTIONS] and INTERLACE.lora_targets == ""


def test_what_the_papers_leave_open_is_marked() -> None:
    open_in_both = {"final_learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon"}
    ours, theirs = set(DOMAIN_AWARE.ours), set(INTERLACE.ours)
    assert ours <= set(described(DOMAIN_AWARE)) and theirs <= set(described(INTERLACE)) and "learning_rate" not in ours | theirs
    assert open_in_both | {"optimizer", "lora_targets", "max_grad_norm", "warmup_ratio"} <= ours
    assert open_in_both | {"max_length"} <= theirs and not {"optimizer", "warmup_ratio", "max_grad_norm", "precision"} & theirs


def test_any_setting_can_be_changed() -> None:
    found = changed(INTERLACE, {"learning_rate": "1e-3", "batch_size": "8", "gradient_checkpointing": "none"})
    assert found == replace(INTERLACE, learning_rate=1e-3, batch_size=8, gradient_checkpointing="none")
    for recipe in RECIPES.values():
        assert changed(recipe, {name: getattr(recipe, name) for name, setting in described(recipe).items() if setting.kind}) == recipe


@pytest.mark.parametrize(
    "recipe, setting, value, message",
    [
        ("interlace", "learning_rat", "1", r"no setting 'learning_rat'\. Did you mean 'learning_rate'\? Known: .*batch_size"),
        ("interlace", "lora_rank", "8", r"no setting 'lora_rank'"),
        ("interlace", "name", "x", r"no setting 'name'"),
        ("interlace", "method", "lora", r"no setting 'method'"),
        ("domain-aware", "batch_size", "0", r"batch_size is 0, expected from 1 to below"),
        ("domain-aware", "batch_size", "2.5", r"setting 'batch_size' of recipe 'domain-aware' is '2.5': expected a whole number"),
        ("domain-aware", "learning_rate", "nan", r"'learning_rate' .* expected a finite number"),
        ("domain-aware", "learning_rate", "-1e-5", r"learning_rate is -1e-05, expected from 1e-12 to below 10"),
        ("domain-aware", "warmup_ratio", "1", r"warmup_ratio is 1\.0, expected from 0 to below 1"),
        ("domain-aware", "precision", "fp8", r"expected one of bf16, fp32"),
        ("domain-aware", "lora_rank", "0", r"lora_rank is 0"),
        ("domain-aware", "lora_alpha", "0", r"lora_alpha is 0"),
    ],
)
def test_invalid_settings(recipe: str, setting: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(recipe_named(recipe), {setting: value})


PLAN = PruningPlan(
    source=SourceRef("mini", None, "0" * 64),
    family="qwen3_vl",
    budget=Budget(None, "layers", 2),
    strategy="interlace",
    parameters={},
    score_meaning="none",
    scores=(None,) * 8,
    protected=(),
    forced=(),
    drop=(2, 5),
    keep=(0, 1, 3, 4, 6, 7),
    tune=(3, 6),
    freeze=(4, 7),
)


def test_the_layers_to_train() -> None:
    chosen = layers_to_train(PLAN, 6, None)  # layers 3 and 6 of the source are the third and the fifth that are left
    assert chosen.layers == (2, 4) and chosen.chosen_by == "the plan (interlace)"
    chosen = layers_to_train(replace(PLAN, tune=(), freeze=(), strategy="mixed"), 6, None)
    assert chosen.layers == (2, 4) and "train-next" in chosen.chosen_by
    assert layers_to_train(None, 36, "25%").layers == layers_to_train(None, 36, "9").layers == tuple(range(27, 36))
    assert parse_tune_last("29%", 100) == 29  # 0.29 * 100 is 28.999999999999996 in floats
    assert parse_tune_last("25%", 6) == 1
    with pytest.raises(UsageError, match=r"was not pruned.*--tune-last 25%"):
        layers_to_train(None, 36, None)


@pytest.mark.parametrize(
    "layers, drop, tuned",
    [
        (8, [2, 5], [3, 6]),
        (8, [2, 3], [4, 5]),  # a run of dropped layers takes as many after it
        (8, [7], [6]),  # none follows: the nearest before
        (8, [6, 7], [4, 5]),
        (8, [4, 6, 7], [2, 3, 5]),
        (5, [1, 2, 3], [0, 4]),  # fewer are left than were dropped: all of them
    ],
)
def test_train_next(layers: int, drop: list[int], tuned: list[int]) -> None:
    assert list(train_next([layer for layer in range(layers) if layer not in drop], drop)) == tuned


@pytest.mark.parametrize("text", ["0", "-1", "37", "1.5", "0%", "101%", "1%", "x", "", "%", "nan%", "inf%"])
def test_an_invalid_number_of_last_layers(text: str) -> None:
    with pytest.raises(UsageError, match=r"--tune-last .*: expected a number of layers from 1 to 36, or a share such as 25%"):
        parse_tune_last(text, 36)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 9), st.integers(0, 100), st.integers(1, 3), st.data())
def test_every_process_has_its_part_of_the_same_batch(
    share: int, processes: int, micro: int, extra: int, epochs: int, data: st.DataObject
) -> None:
    recipe = changed(INTERLACE, {"batch_size": share * processes, "micro_batch_size": micro, "epochs": epochs})
    samples = recipe.batch_size + extra
    steps, rounds = steps_in(samples, recipe), rounds_per_step(recipe, processes)
    start = data.draw(st.integers(0, steps))
    parts = [list(my_batches(samples, recipe, rank, processes, start)) for rank in range(processes)]
    assert all(len(part) == (steps - start) * rounds for part in parts)
    assert all(1 <= len(batch) <= micro for part in parts for batch in part)
    for step in range(start, steps):
        mine = [part[(step - start) * rounds : (step - start + 1) * rounds] for part in parts]
        taken = [sample for part in mine for batch in part for sample in batch]
        first = step % (samples // recipe.batch_size) * recipe.batch_size
        assert len(set(taken)) == recipe.batch_size
        if step < samples // recipe.batch_size:
            assert taken == list(range(first, first + recipe.batch_size))


def test_every_epoch_has_an_order_of_its_own() -> None:
    recipe = changed(INTERLACE, {"batch_size": 4, "epochs": 3})
    taken = [sample for batch in my_batches(40, recipe, 0, 1) for sample in batch]
    epochs = [taken[start : start + 40] for start in (0, 40, 80)]
    assert epochs[0] == list(range(40)) and len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert [sample for batch in my_batches(40, recipe, 0, 1, start=13) for sample in batch] == taken[52:]


@pytest.mark.parametrize("steps, warmup", [(1, 0.0), (20, 0.0), (100, 0.03), (7, 0.5)])
def test_the_learning_rate_is_transformers_cosine(steps: int, warmup: float) -> None:
    """Theirs warms up from zero, where the first step would train nothing; ours from the first part of the way."""
    recipe = changed(INTERLACE, {"learning_rate": 3e-4, "warmup_ratio": warmup})
    warm = math.ceil(warmup * steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, warm, steps)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [learning_rate(step, steps, recipe) for step in range(steps)]
    assert ours[warm:] == pytest.approx(theirs[warm:])
    assert ours[:warm] == pytest.approx([*theirs[1:warm], 3e-4][:warm])
    assert all(a >= b for a, b in pairwise(ours[warm:])) and learning_rate(steps, steps, recipe) == recipe.final_learning_rate


def test_batches_that_do_not_divide() -> None:
    with pytest.raises(UsageError, match=r"12 samples are fewer than one batch of 32: add data, or --set batch_size="):
        steps_in(12, INTERLACE)
    with pytest.raises(UsageError, match=r"batch_size 32 cannot be divided among 3 processes"):
        rounds_per_step(INTERLACE, 3)
