"""Which layers are trained in full: the plan's, train-next's, or the last ones of a dense model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import UsageError
from hf_layerprune.healing.request import layers_to_train, parse_tune_last, train_next

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


def test_the_plans_own_layers_by_their_new_numbers() -> None:
    chosen = layers_to_train(PLAN, 6, None)
    assert chosen.layers == (2, 4)  # layers 3 and 6 of the source are the third and the fifth that are left
    assert chosen.chosen_by == "the plan (interlace)"


def test_a_plan_that_marks_none_gets_train_next() -> None:
    chosen = layers_to_train(replace(PLAN, tune=(), freeze=(), strategy="mixed"), 6, None)
    assert chosen.layers == (2, 4)
    assert "train-next" in chosen.chosen_by and "ours" not in PLAN.strategy


@pytest.mark.parametrize(
    "layers, drop, tuned",
    [
        (8, [2, 5], [3, 6]),
        (8, [2, 3], [4, 5]),  # a run of dropped layers takes as many after it
        (8, [2, 4], [3, 5]),
        (8, [7], [6]),  # none follows: the nearest before
        (8, [6, 7], [4, 5]),
        (8, [5, 7], [4, 6]),
        (8, [4, 6, 7], [2, 3, 5]),
        (5, [1, 2, 3], [0, 4]),  # fewer are left than were dropped: all of them
    ],
)
def test_train_next(layers: int, drop: list[int], tuned: list[int]) -> None:
    assert list(train_next([layer for layer in range(layers) if layer not in drop], drop)) == tuned


@given(st.integers(3, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1))))
def test_train_next_takes_as_many_as_were_dropped(case: tuple[int, set[int]]) -> None:
    layers, drop = case
    keep = [layer for layer in range(layers) if layer not in drop]
    tuned = train_next(keep, sorted(drop))
    assert len(tuned) == min(len(drop), len(keep)) and set(tuned) <= set(keep) and sorted(tuned) == list(tuned)


def test_the_dense_control() -> None:
    assert layers_to_train(None, 36, "25%").layers == tuple(range(27, 36))
    assert layers_to_train(None, 36, "9") == replace(layers_to_train(None, 36, "25%"), chosen_by="the last 9 (INTERLACE's dense control)")
    assert parse_tune_last("29%", 100) == 29  # 0.29 * 100 is 28.999999999999996 in floats
    assert parse_tune_last("25%", 6) == 1


@pytest.mark.parametrize("text", ["0", "-1", "37", "1.5", "0%", "101%", "1%", "x", "", "%", "nan%", "inf%"])
def test_a_number_of_last_layers_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"--tune-last .*: expected a number of layers from 1 to 36, or a share such as 25%"):
        parse_tune_last(text, 36)


def test_a_dense_model_must_be_told() -> None:
    with pytest.raises(UsageError, match=r"was not pruned.*--tune-last 25%"):
        layers_to_train(None, 36, None)
