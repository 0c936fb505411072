"""`math`, `nonmath`, `mixed` and `random`: equations 8 and 9 against Python's own statistics, domains by any name, ties, the control."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.cosine import CosineStrategy, MixedParameters, most_redundant, normalise
from hf_layerprune.strategies.plugins import STRATEGIES
from hf_layerprune.strategies.random import RandomParameters
from hf_layerprune.strategies.strategy import needed_domains
from tests.plans import facts_of, plan_of, select, statistics_of

MATH = (0.10, 0.80, 0.95, 0.90, 0.85, 0.60, 0.20, 0.30)
NONMATH = (0.20, 0.50, 0.70, 0.75, 0.97, 0.93, 0.40, 0.10)
FREE = (1, 2, 3, 4, 5, 6)


def z_scores(values: Any) -> dict[int, float]:
    """Eq. 8 as printed, with the population deviation of the free layers."""
    free = [values[layer] for layer in FREE]
    return {layer: (values[layer] - fmean(free)) / (pstdev(free) + 1e-8) for layer in FREE}


@pytest.fixture
def by_hand() -> Any:
    return statistics_of(facts_of(layers=8), cosine={"math": MATH, "nonmath": NONMATH})


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_normalisation_is_equation_8(values: list[float]) -> None:
    expected = [(value - fmean(values)) / (pstdev(values) + 1e-8) for value in values]
    assert normalise(np.asarray(values)) == pytest.approx(expected, abs=1e-6)


def test_layers_that_all_score_the_same_are_normalised_to_zero() -> None:
    assert normalise(np.full(2, 0.75)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "values", "drop"), [("math", MATH, (2, 3, 4)), ("nonmath", NONMATH, (3, 4, 5))])
def test_one_domain_removes_what_changes_that_domain_least(by_hand: Any, name: str, values: Any, drop: tuple[int, ...]) -> None:
    selection = select(STRATEGIES[name], by_hand, FREE, 3)
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
    assert select(STRATEGIES["mixed"], by_hand, FREE, 1).drop == (4,)
    assert select(STRATEGIES["mixed"], by_hand, FREE, 1, MixedParameters(0.0)).drop == (2,)
    with pytest.raises(UsageError, match="alpha is nan"):
        MixedParameters(float("nan"))


@pytest.mark.parametrize("seed", range(5))
def test_one_domain_is_mixed_at_the_end_of_alpha_bit_for_bit(seed: int) -> None:
    draw = np.random.default_rng(seed)
    statistics = statistics_of(cosine={"math": draw.random(16), "nonmath": draw.random(16)})
    for alpha, domain in ((0.0, "math"), (1.0, "nonmath")):
        alone = select(STRATEGIES[domain], statistics, FREE, 4)
        mixed = select(STRATEGIES["mixed"], statistics, FREE, 4, MixedParameters(alpha))
        expected = normalise(statistics.cosine(domain)[list(FREE)]).tolist()
        assert alone.drop == mixed.drop and list(alone.scores.values()) == list(mixed.scores.values()) == expected


def test_protected_layers_do_not_move_the_scores_of_free_ones() -> None:
    other = statistics_of(facts_of(layers=8), cosine={"math": (-1.0, *MATH[1:7], 1.0)})
    assert select(STRATEGIES["math"], other, FREE, 1).scores == pytest.approx(z_scores(MATH))


@pytest.mark.parametrize("name", ["math", "nonmath", "mixed"])
def test_ties_break_towards_the_deeper_layer(name: str) -> None:
    assert select(STRATEGIES[name], statistics_of(), tuple(range(3, 15)), 3).drop == (12, 13, 14)
    assert most_redundant({1: 0.5, 2: 0.9, 3: 0.5, 4: 0.1}, (1, 2, 3, 4), 2) == (2, 3)


def test_layers_without_a_score_cannot_fill_a_budget() -> None:
    with pytest.raises(StrategyError, match="asks for 3 layers, but only 2 free layers have a score"):
        most_redundant({1: 0.5, 2: 0.5}, (0, 1, 2), 3)


# Domains by any name


@pytest.fixture
def three() -> LayerStatistics:
    """Statistics of the two built-in domains and of `charts`, whose two subtasks have random cosines."""
    draw = np.random.default_rng(5)
    statistics = statistics_of(cosine={"math": draw.random(16), "nonmath": draw.random(16)})
    arrays = {name: value for name, value in vars(statistics).items() if isinstance(value, np.ndarray)}
    longer = {name: np.concatenate([value, value[:2]]) for name, value in arrays.items()}
    longer["cosine_sum"][-2:, 0] = draw.random((2, 16)) * longer["samples"][-2:, None]
    others = {"read a bar": "charts", "read a pie": "charts"}
    return replace(statistics, subtasks=(*statistics.subtasks, *others), other_domains=others, **longer)


def test_any_domains_with_any_weights(three: LayerStatistics) -> None:
    weights = {"charts": 0.5, "math": 0.3, "nonmath": 0.2}
    strategy = CosineStrategy("all", weights)
    parts = {domain: z_scores(three.cosine(domain)) for domain in weights}
    expected = {layer: sum(weight * parts[domain][layer] for domain, weight in weights.items()) for layer in FREE}
    assert select(strategy, three, FREE, 3).scores == pytest.approx(expected)
    assert needed_domains(strategy) == ("math", "nonmath", "charts")
    charts = CosineStrategy("charts", {"charts": 1.0})
    assert charts.needs == {"charts.cosine"} and needed_domains(charts) == ("charts",)
    assert select(charts, three, FREE, 3).scores == pytest.approx(parts["charts"])


def test_a_plan_by_a_third_domain(three: LayerStatistics, install_plugin: Any) -> None:
    code = "from hf_layerprune.strategies.cosine import CosineStrategy\nSTRATEGY = CosineStrategy('charts', {'charts': 1.0})"
    install_plugin("chart-plugin", "charts", code)
    free = range(3, 15)
    plan = plan_of(facts_of(), "charts", num_layers=3, statistics=three)
    assert set(plan.drop) == set(sorted(free, key=three.cosine("charts").__getitem__)[-3:])
    with pytest.raises(StrategyError, match=r"needs the charts domain, but the statistics hold math and nonmath\. Probe the charts domain"):
        plan_of(facts_of(), "charts", num_layers=2, statistics=statistics_of())


# The control


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
