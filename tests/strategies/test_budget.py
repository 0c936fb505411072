"""Budgets: the K of both papers, exactly, and a clear word for everything that is no budget."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.plan import Budget
from hf_layerprune.errors import UsageError
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.request import resolve_budget


def budget_of(layers: int, chosen: tuple[int, ...] | None = None, **options: Any) -> Budget:
    return resolve_budget(layers, PlanOptions(**options), chosen)


@pytest.mark.parametrize(
    ("layers", "percent", "count"),
    [(28, "10%", 2), (28, "25%", 6), (28, "40%", 10), (36, "10%", 3), (36, "25%", 8), (36, "40%", 13)],
)
def test_middle_budgets_are_those_of_the_domain_aware_paper(layers: int, percent: str, count: int) -> None:
    assert budget_of(layers, budget=percent) == Budget(percent, "middle", count)


@pytest.mark.parametrize(("fraction", "count"), [(0.10, 3), (0.15, 5), (0.20, 7), (0.25, 9)])
def test_budgets_of_all_layers_are_those_of_interlace(fraction: float, count: int) -> None:
    assert budget_of(36, budget=fraction, budget_of="all") == Budget(str(fraction), "all", count)


@pytest.mark.parametrize(
    ("layers", "budget", "count"),
    [
        (102, 0.29, 29),  # 0.29 * 100 is 28.999999999999996 in floats
        (102, "0.29", 29),
        (102, "29%", 29),
        (102, "29.0%", 29),
        (102, ".29", 29),
        (102, "2.9e-1", 29),
        (102, "0.2899999999999999999999999999", 28),  # more digits than a float or a default Decimal product keeps
        (12, "0.9999999999999999999999999999", 9),
        (16, "0.0715", 1),  # the least that the error names for 14 layers
    ],
)
def test_fractions_are_exact(layers: int, budget: str | float, count: int) -> None:
    assert budget_of(layers, budget=budget).layers == count


@given(layers=st.integers(3, 200), thousandths=st.integers(1, 999), all_layers=st.booleans())
def test_a_fraction_is_the_floor_of_a_whole_number_division(layers: int, thousandths: int, all_layers: bool) -> None:
    expected = thousandths * (layers if all_layers else layers - 2) // 1000
    ask = {"budget": str(Decimal(thousandths) / 1000), "budget_of": "all" if all_layers else "middle"}
    if expected:
        assert budget_of(layers, **ask).layers == expected
    else:
        with pytest.raises(UsageError, match="less than one layer"):
            budget_of(layers, **ask)


def test_a_count_and_a_list_are_taken_as_they_are() -> None:
    assert budget_of(16, budget=None, num_layers=13) == Budget(None, "count", 13)
    assert budget_of(16, budget=None, chosen=(3, 7)) == Budget(None, "layers", 2)


RANGE = "is out of range: expected a fraction above 0 and below 1, such as 0.25 or 25%."
NUMBER = "is no number: expected a fraction such as 0.25, or 25% without a space."
BAD_FRACTIONS = [
    (0, f"--budget '0' {RANGE}"),
    (0.0, f"--budget '0.0' {RANGE}"),
    (1, f"--budget '1' {RANGE}"),
    ("1", f"--budget '1' {RANGE}"),
    ("100%", f"--budget '100%' {RANGE}"),
    (1.5, f"--budget '1.5' {RANGE} Did you mean 1.5%?"),
    ("25", f"--budget '25' {RANGE} Did you mean 25%?"),
    ("1e999", f"--budget '1e999' {RANGE}"),
    (-0.1, f"--budget '-0.1' {RANGE}"),
    ("abc", f"--budget 'abc' {NUMBER}"),
    ("", f"--budget '' {NUMBER}"),
    ("25 %", f"--budget '25 %' {NUMBER}"),
    (" 0.25", f"--budget ' 0.25' {NUMBER}"),
    ("0.25\n", f"--budget '0.25\\n' {NUMBER}"),
    ("1/4", f"--budget '1/4' {NUMBER}"),
    ("0,25", f"--budget '0,25' {NUMBER}"),
    ("0_1", f"--budget '0_1' {NUMBER}"),
    ("٠.٢٥", f"--budget '٠.٢٥' {NUMBER}"),
    ("nan", f"--budget 'nan' {NUMBER}"),
    (float("nan"), f"--budget 'nan' {NUMBER}"),
    (float("inf"), f"--budget 'inf' {NUMBER}"),
    (True, f"--budget 'True' {NUMBER}"),
    ("1e-999999999", f"--budget '1e-999999999' {NUMBER}"),
    (1e-9, "--budget '1e-09' of 14 layers is less than one layer. The least is 1 layer, from --budget 0.0715 on."),
    ("7%", "--budget '7%' of 14 layers is less than one layer. The least is 1 layer, from --budget 0.0715 on."),
]


@pytest.mark.parametrize(("budget", "message"), BAD_FRACTIONS)
def test_what_is_no_fraction_is_a_usage_error(budget: str | float, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        budget_of(16, budget=budget)
    assert str(caught.value) == message


def test_an_endless_number_is_refused_in_one_short_line() -> None:
    with pytest.raises(UsageError) as caught:
        budget_of(16, budget="0." + "1" * 100_000)
    assert len(str(caught.value)) < 250


def test_a_model_too_shallow_for_any_fraction_is_told_so() -> None:
    with pytest.raises(UsageError, match="No fraction gives one: use --num-layers or --layers"):
        budget_of(3, budget=0.9)


@pytest.mark.parametrize("count", [0, -1, 16, 2.0, "2", True])
def test_a_count_must_leave_a_layer(count: object) -> None:
    with pytest.raises(UsageError, match=r"--num-layers .*: expected a whole number from 1 to 13"):
        budget_of(16, budget=None, num_layers=count)


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        ({"budget": 0.25, "num_layers": 3}, "got --budget and --num-layers"),
        ({"budget": 0.25, "chosen": (3,)}, "got --budget and --layers"),
        ({"budget": None, "num_layers": 3, "chosen": (3,)}, "got --num-layers and --layers"),
    ],
)
def test_the_three_ways_exclude_each_other(ask: dict[str, object], found: str) -> None:
    with pytest.raises(UsageError, match=f"only one of --budget, --num-layers, --layers says how many layers go, {found}"):
        budget_of(16, **ask)


def test_the_base_of_a_fraction_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="--budget-of 'most': expected middle"):
        budget_of(16, budget=0.25, budget_of="most")
