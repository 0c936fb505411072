"""INTERLACE's Algorithm 1 on an example by hand, its limits, and the exact choice beyond them against every subset."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.interlace import drop_by_triplets, greedy_triplets, spaced_choice
from hf_layerprune.strategies.plugins import STRATEGIES
from tests.plans import facts_of, select, statistics_of

INTERLACE = STRATEGIES["interlace"]

# Twelve layers, the first and the last protected. By triplet score: 4-5-6 first, 5-6-7 and 3-4-5 overlap it, then 7-8-9
# (a neighbour of 4-5-6, which is allowed), then 1-2-3; nothing is left for a fourth.
#          layer  0     1     2     3     4     5     6     7     8     9    10    11
LAYER = (0.10, 0.50, 0.60, 0.70, 0.90, 0.80, 0.99, 0.70, 0.70, 0.95, 0.60, 0.20)
#   first layer  0     1     2     3     4     5     6     7     8     9
TRIPLET = (0.99, 0.30, 0.20, 0.85, 0.90, 0.88, 0.10, 0.80, 0.70, 0.99)
FREE = tuple(range(1, 11))


@pytest.fixture
def by_hand() -> Any:
    return statistics_of(facts_of(layers=12, deepstack=0), token=LAYER, triplet=TRIPLET)


@pytest.mark.parametrize(
    ("k", "drop", "tune", "freeze"),
    [
        (1, (4,), (5,), (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)),
        # Layers 7 and 8 are equally redundant: the deeper goes.
        (2, (4, 8), (5, 7), (0, 1, 2, 3, 6, 9, 10, 11)),
        (3, (2, 4, 8), (1, 5, 7), (0, 3, 6, 9, 10, 11)),
    ],
)
def test_algorithm_1_by_hand(by_hand: Any, k: int, drop: tuple[int, ...], tune: tuple[int, ...], freeze: tuple[int, ...]) -> None:
    selection = select(INTERLACE, by_hand, FREE, k)
    assert (selection.drop, selection.tune, selection.freeze) == (drop, tune, freeze)
    assert (selection.relaxed, selection.strict_drop) == (False, ())
    assert selection.scores == pytest.approx(dict(enumerate(LAYER)))


def test_beyond_the_triplets_the_best_layers_apart_are_taken_and_said(by_hand: Any) -> None:
    selection = select(INTERLACE, by_hand, FREE, 4)
    assert (selection.relaxed, selection.strict_drop) == (True, (2, 4, 8))
    best = max(
        (subset for subset in combinations(FREE, 4) if all(b - a > 1 for a, b in pairwise(subset))),
        key=lambda subset: sum(LAYER[layer] for layer in subset),
    )
    assert selection.drop == best == (2, 4, 6, 9)
    assert selection.tune == (3, 5, 7, 10)
    assert selection.freeze == (0, 1, 8, 11)


def test_beyond_what_spacing_allows_is_refused(by_hand: Any) -> None:
    with pytest.raises(StrategyError, match="asks for 6 layers, but at most 5 of the free layers can go with no two of them adjacent"):
        select(INTERLACE, by_hand, FREE, 6)


def test_without_protection_the_triplets_at_both_ends_are_eligible(by_hand: Any) -> None:
    # 9-10-11 and 0-1-2 score 0.99: the deeper first, then the other, as Algorithm 1 is printed.
    assert select(INTERLACE, by_hand, tuple(range(12)), 1).drop == (9,)
    assert select(INTERLACE, by_hand, tuple(range(12)), 2).drop == (1, 9)


def test_a_removed_last_layer_has_no_layer_after_it_to_tune() -> None:
    statistics = statistics_of(facts_of(layers=4, deepstack=0), token=(0.9, 0.1, 0.1, 0.9), triplet=(0.5, 0.5))
    selection = select(INTERLACE, statistics, (0, 1, 2, 3), 2)
    assert (selection.drop, selection.tune, selection.freeze, selection.relaxed) == ((0, 3), (1,), (2,), True)


@pytest.mark.parametrize(("layers", "most", "worst"), [(28, 8, 5), (36, 11, 7)])
def test_how_many_triplets_fit_into_both_models(layers: int, most: int, worst: int) -> None:
    free = tuple(range(1, layers - 1))
    packed = {first: float(first % 3 == 1) for first in range(layers - 2)}  # 1-2-3, 4-5-6, ... score best
    assert len(greedy_triplets(packed, free, layers)) == most
    wasteful = {first: float(first % 5 == 3) for first in range(layers - 2)}  # 3-4-5, 8-9-10, ...: gaps of two between them
    assert len(greedy_triplets(wasteful, free, layers)) == worst


@given(scores=st.lists(st.floats(-1, 1), min_size=34, max_size=34), k=st.integers(1, 13))
def test_greedy_triplets_share_no_layer_and_leave_room_for_none(scores: list[float], k: int) -> None:
    free = tuple(range(1, 35))
    firsts = greedy_triplets(dict(enumerate(scores)), free, k)
    taken = [layer for first in firsts for layer in (first, first + 1, first + 2)]
    assert len(set(taken)) == len(taken) and set(taken) <= set(free)
    assert len(firsts) == min(k, len(greedy_triplets(dict(enumerate(scores)), free, 13)))
    assert min(k, 7) <= len(firsts) <= 11
    if len(firsts) < k:
        assert not any({first, first + 1, first + 2} <= set(free) - set(taken) for first in range(34))


@given(st.lists(st.floats(-1, 1), min_size=36, max_size=36), st.lists(st.floats(-1, 1), min_size=34, max_size=34), st.integers(1, 17))
def test_no_two_removed_layers_are_ever_adjacent(layer: list[float], triplet: list[float], k: int) -> None:
    choice = drop_by_triplets(dict(enumerate(triplet)), dict(enumerate(layer)), tuple(range(1, 35)), k)
    assert len(choice.drop) == k and not set(choice.drop) & set(choice.tune)
    assert all(b - a > 1 for a, b in pairwise(choice.drop))


def test_ties_of_triplets_and_of_layers_go_deeper() -> None:
    assert greedy_triplets({1: 0.5, 4: 0.5, 7: 0.5}, tuple(range(1, 10)), 2) == (7, 4)
    assert drop_by_triplets({3: 0.5}, {3: 0.5, 4: 0.5}, (3, 4, 5), 1).drop == (4,)
    assert drop_by_triplets({3: 0.5}, {3: 0.6, 4: 0.5}, (3, 4, 5), 1).drop == (3,)


def test_a_triplet_with_a_protected_layer_is_not_eligible() -> None:
    assert greedy_triplets({1: 0.9, 2: 0.8, 3: 0.7}, (1, 2, 4, 5, 6), 2) == ()
    assert greedy_triplets({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1}, (1, 2, 4, 5, 6), 2) == (4,)


# Few distinct values, so that ties are common, next to values whose float sums round (0.1 + 0.2 != 0.3).
SCORES = st.dictionaries(st.integers(0, 12), st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0]) | st.floats(-1, 1), max_size=11)


@given(scores=SCORES, k=st.integers(1, 7))
def test_the_choice_is_the_best_of_all_subsets(scores: dict[int, float], k: int) -> None:
    subsets = [subset for subset in combinations(sorted(scores), k) if all(b - a > 1 for a, b in pairwise(subset))]
    expected = max(subsets, key=lambda subset: (sum(map(Fraction, map(scores.__getitem__, subset))), subset[::-1]), default=None)
    assert spaced_choice(scores, k) == expected


def test_ties_and_limits_of_the_choice() -> None:
    """Towards the deeper set, in whatever order sums are added; a greedy choice would be worse; where too few are apart there is none."""
    assert spaced_choice(dict.fromkeys(range(1, 7), 0.5), 2) == (4, 6)
    assert spaced_choice(dict.fromkeys(range(1, 7), 0.5), 3) == (2, 4, 6)
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001 in floats, and 0.3 + 0.2 + 0.1 is 0.6.
    assert spaced_choice({0: 0.1, 1: 0.3, 2: 0.2, 3: 0.2, 4: 0.3, 5: 0.1}, 3) == (1, 3, 5)
    assert spaced_choice({0: 0.1, 1: 0.8, 2: 0.9, 3: 0.8}, 2) == (1, 3)
    assert spaced_choice({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}, 3) is spaced_choice({}, 1) is None
