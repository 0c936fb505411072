"""Which samples a step takes, and at which learning rate: neither depends on the number of processes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from hf_layerprune.errors import UsageError
from hf_layerprune.healing.engine import rounds_per_step
from hf_layerprune.healing.recipes import INTERLACE, changed
from hf_layerprune.healing.training import learning_rate, my_batches, steps_in


@settings(deadline=None)
@given(
    share=st.integers(1, 12),
    processes=st.integers(1, 6),
    micro=st.integers(1, 9),
    extra=st.integers(0, 100),
    epochs=st.integers(1, 3),
    data=st.data(),
)
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
    assert all(a >= b for a, b in pairwise(ours[warm:]))


def test_batches_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"12 samples are fewer than one batch of 32: add data, or --set batch_size="):
        steps_in(12, INTERLACE)
    with pytest.raises(UsageError, match=r"batch_size 32 cannot be divided among 3 processes"):
        rounds_per_step(INTERLACE, 3)


def test_every_epoch_has_an_order_of_its_own() -> None:
    recipe = changed(INTERLACE, {"batch_size": 4, "epochs": 3})
    taken = [sample for batch in my_batches(40, recipe, 0, 1) for sample in batch]
    epochs = [taken[start : start + 40] for start in (0, 40, 80)]
    assert epochs[0] == list(range(40)) and len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert [sample for batch in my_batches(40, recipe, 0, 1, start=13) for sample in batch] == taken[52:]
