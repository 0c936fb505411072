"""An epoch of several sources: each record as often as its weight says, the order by the seed alone."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.healing.dataset import mixed


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 500), max_size=40), st.decimals("0.01", "5", places=2)), min_size=1, max_size=4),
    st.integers(0, 2**40),
)
def test_each_record_as_often_as_its_weight_says(sources: list[tuple[set[int], Decimal]], seed: int) -> None:
    rows = [np.array(sorted(part), np.int64) for part, _ in sources]
    weights = [weight for _, weight in sources]
    order = mixed(rows, weights, seed)
    seen = Counter(map(tuple, order.tolist()))
    for number, (part, weight) in enumerate(sources):
        counts = [seen[number, row] for row in part]
        assert all(int(weight) <= count <= int(weight) + 1 for count in counts)
        exact = float(weight) * len(part)
        assert abs(sum(counts) - exact) <= 0.5 + 1e-9 or (sum(counts) == 1 and 0 < exact < 0.5)
    assert sum(seen.values()) == sum(seen[number, row] for number, (part, _) in enumerate(sources) for row in part)
    assert np.array_equal(order, mixed(rows, weights, seed))


def test_the_seed_decides_order_and_which_half() -> None:
    rows = [np.arange(100), np.arange(50)]
    orders = [mixed(rows, [Decimal("0.5"), Decimal(1)], seed) for seed in range(3)]
    assert all(len(order) == 100 for order in orders)
    assert len({order.tobytes() for order in orders}) == 3
    halves = [frozenset(order[order[:, 0] == 0, 1].tolist()) for order in orders]
    assert len(set(halves)) == 3 and all(len(half) == 50 for half in halves)


def test_halves_are_drawn_uniformly_and_sources_lie_mixed() -> None:
    """2,000 draws of a quarter of 20: each expected 500 times, with a standard deviation of 19.4."""
    seen: Counter[int] = Counter()
    first = 0
    for seed in range(2000):
        order = mixed([np.arange(20), np.arange(5)], [Decimal("0.25"), Decimal(1)], seed)
        seen.update(order[order[:, 0] == 0, 1].tolist())
        first += int(order[0, 0] == 0)
    assert all(abs(seen[row] - 500) < 5 * 19.4 for row in range(20))
    assert abs(first - 1000) < 5 * 22.4  # either source comes first as often: five samples of each


def test_the_order_never_changes() -> None:
    """Written down once: a resumed training on another machine, or with another numpy, reads the same samples."""
    order = mixed([np.arange(4), np.arange(3)], [Decimal(1), Decimal("1.5")], 7)
    assert order.tolist() == [[0, 0], [1, 2], [1, 0], [0, 3], [1, 1], [1, 1], [0, 1], [0, 2], [1, 2]]


def test_a_source_with_nothing_gives_nothing() -> None:
    assert mixed([np.array([], np.int64), np.arange(2)], [Decimal(3), Decimal(1)], 0)[:, 0].tolist() == [1, 1]
    with pytest.raises(ValueError):
        mixed([np.arange(2)], [], 0)
