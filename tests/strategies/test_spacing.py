"""The exact choice of non-adjacent layers, against every subset."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.strategies.interlace import spaced_choice

# Few distinct values, so that ties are common, next to values whose float sums round (0.1 + 0.2 != 0.3).
SCORES = st.dictionaries(st.integers(0, 12), st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0]) | st.floats(-1, 1), max_size=11)


def spaced_subsets(layers: list[int], k: int) -> list[tuple[int, ...]]:
    return [subset for subset in combinations(layers, k) if all(b - a > 1 for a, b in pairwise(subset))]


@given(scores=SCORES, k=st.integers(1, 7))
def test_the_choice_is_the_best_of_all_subsets(scores: dict[int, float], k: int) -> None:
    subsets = spaced_subsets(sorted(scores), k)
    expected = max(subsets, key=lambda subset: (sum(map(Fraction, map(scores.__getitem__, subset))), subset[::-1]), default=None)
    assert spaced_choice(scores, k) == expected


def test_ties_break_towards_the_deeper_set() -> None:
    assert spaced_choice(dict.fromkeys(range(1, 7), 0.5), 2) == (4, 6)
    assert spaced_choice(dict.fromkeys(range(1, 7), 0.5), 3) == (2, 4, 6)


def test_a_tie_is_a_tie_in_whatever_order_it_is_added_up() -> None:
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001 in floats, and 0.3 + 0.2 + 0.1 is 0.6.
    assert spaced_choice({0: 0.1, 1: 0.3, 2: 0.2, 3: 0.2, 4: 0.3, 5: 0.1}, 3) == (1, 3, 5)


def test_a_greedy_choice_would_be_worse() -> None:
    # Greedy takes layer 2 first and is left with 0.1; the two neighbours of layer 2 are worth more.
    assert spaced_choice({0: 0.1, 1: 0.8, 2: 0.9, 3: 0.8}, 2) == (1, 3)


def test_where_there_are_too_few_there_is_no_choice() -> None:
    assert spaced_choice({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}, 3) is None
    assert spaced_choice({}, 1) is None
