"""Equations 8 and 9 against Python's own statistics, the tie rule, and the control."""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.cosine import MixedParameters, most_redundant, normalise
from hf_layerprune.strategies.plugins import STRATEGIES, parse_parameters
from hf_layerprune.strategies.random import RandomParameters
from tests.selecting import select

MATH = (0.10, 0.80, 0.95, 0.90, 0.85, 0.60, 0.20, 0.30)
NONMATH = (0.20, 0.50, 0.70, 0.75, 0.97, 0.93, 0.40, 0.10)
FREE = (1, 2, 3, 4, 5, 6)


def z_scores(values: tuple[float, ...]) -> dict[int, float]:
    """Eq. 8 as printed, with the population deviation of the free layers."""
    free = [values[layer] for layer in FREE]
    return {layer: (values[layer] - fmean(free)) / (pstdev(free) + 1e-8) for layer in FREE}


@pytest.fixture
def by_hand(make_statistics: Any, make_facts: Any) -> Any:
    return make_statistics(make_facts(layers=8), cosine={"math": MATH, "nonmath": NONMATH})


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.sets(st.integers(0, 7), min_size=1))
def test_normalisation_is_equation_8_over_the_free_layers(values: list[float], free: set[int]) -> None:
    chosen = [values[layer] for layer in sorted(free)]
    expected = [(value - fmean(chosen)) / (pstdev(chosen) + 1e-8) for value in chosen]
    assert normalise(np.asarray(chosen)) == pytest.approx(expected, abs=1e-6)


def test_layers_that_all_score_the_same_are_normalised_to_zero() -> None:
    assert normalise(np.full(2, 0.75)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "values", "drop"), [("math", MATH, (2, 3, 4)), ("nonmath", NONMATH, (3, 4, 5))])
def test_one_domain_removes_what_changes_that_domain_least(
    by_hand: Any, name: str, values: tuple[float, ...], drop: tuple[int, ...]
) -> None:
    strategy = STRATEGIES[name]
    selection = select(strategy, by_hand, FREE, 3, parse_parameters(strategy, {}))
    assert selection.drop == drop
    assert selection.scores == pytest.approx(z_scores(values))
    assert (selection.tune, selection.freeze, selection.relaxed) == ((), (), False)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0])
def test_mixed_is_equation_9_with_alpha_on_the_non_math_domain(by_hand: Any, alpha: float) -> None:
    math_scores, nonmath_scores = z_scores(MATH), z_scores(NONMATH)
    expected = {layer: alpha * nonmath_scores[layer] + (1 - alpha) * math_scores[layer] for layer in FREE}
    selection = select(STRATEGIES["mixed"], by_hand, FREE, 2, MixedParameters(alpha))
    assert selection.scores == pytest.approx(expected)
    assert set(selection.drop) == set(sorted(FREE, key=expected.__getitem__)[-2:])


def test_the_default_alpha_leans_to_non_math(by_hand: Any) -> None:
    assert MixedParameters() == MixedParameters(0.7)
    assert select(STRATEGIES["mixed"], by_hand, FREE, 1, MixedParameters()).drop == (4,)
    assert select(STRATEGIES["mixed"], by_hand, FREE, 1, MixedParameters(0.0)).drop == (2,)


def test_protected_layers_do_not_move_the_scores_of_free_ones(make_statistics: Any, make_facts: Any) -> None:
    other = make_statistics(make_facts(layers=8), cosine={"math": (-1.0, *MATH[1:7], 1.0)})
    assert select(STRATEGIES["math"], other, FREE, 1, None).scores == pytest.approx(z_scores(MATH))


@pytest.mark.parametrize("name", ["math", "nonmath", "mixed"])
def test_ties_break_towards_the_deeper_layer(make_statistics: Any, name: str) -> None:
    strategy = STRATEGIES[name]
    assert select(strategy, make_statistics(), tuple(range(3, 15)), 3, parse_parameters(strategy, {})).drop == (12, 13, 14)


def test_a_tie_at_the_edge_of_the_budget_goes_to_the_deeper_layer() -> None:
    assert most_redundant({1: 0.5, 2: 0.9, 3: 0.5, 4: 0.1}, (1, 2, 3, 4), 2) == (2, 3)


def test_layers_without_a_score_cannot_fill_a_budget() -> None:
    with pytest.raises(StrategyError, match="asks for 3 layers, but only 2 free layers have a score"):
        most_redundant({1: 0.5, 2: 0.5}, (0, 1, 2), 3)


def test_random_is_a_fixed_draw_per_seed() -> None:
    def drawn(seed: int, k: int, free: range = range(1, 35)) -> tuple[int, ...]:
        return select(STRATEGIES["random"], None, tuple(free), k, RandomParameters(seed)).drop

    # Random(0) begins 0.844, 0.758, 0.421, 0.259, 0.511, 0.405 in every version of Python; the layers with the smallest go.
    assert drawn(0, 3, range(1, 7)) == (3, 4, 6)
    assert drawn(0, 13) != drawn(1, 13)
    assert set(drawn(5, 3)) < set(drawn(5, 8)) < set(drawn(5, 13))


def test_random_draws_every_layer_equally_often() -> None:
    counts = [0] * 10
    for seed in range(2000):
        for layer in select(STRATEGIES["random"], None, tuple(range(10)), 3, RandomParameters(seed)).drop:
            counts[layer] += 1
    # 600 each is expected, with a deviation of sqrt(2000 * 0.3 * 0.7) = 20.5; five of them are allowed.
    assert all(math.isclose(count, 600, abs_tol=103) for count in counts)
