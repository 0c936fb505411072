"""What the options of a plan mean: the K of both papers, exactly; lists of layers; a clear word for everything else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.plan import Budget
from hf_layerprune.errors import LayerPruneError, StrategyError, UsageError
from hf_layerprune.strategies.options import PlanOptions, format_layers, parse_layers, protected_layers
from hf_layerprune.strategies.planning import Request, resolve, resolve_budget, strategy_of
from tests.plans import facts_of


def request(depth: int = 16, /, **options: Any) -> Request:
    return resolve(facts_of(depth), PlanOptions(**options))


@pytest.mark.parametrize(
    ("layers", "percent", "count"),
    [(28, "10%", 2), (28, "25%", 6), (28, "40%", 10), (36, "10%", 3), (36, "25%", 8), (36, "40%", 13)],
)
def test_middle_budgets_are_those_of_the_domain_aware_paper(layers: int, percent: str, count: int) -> None:
    for protect in ("default", "first,last", "none"):  # which the budget does not depend on
        assert request(layers, budget=percent, protect=protect).budget == Budget(percent, "middle", count)


@pytest.mark.parametrize(("fraction", "count"), [(0.10, 3), (0.15, 5), (0.20, 7), (0.25, 9)])
def test_budgets_of_all_layers_are_those_of_interlace(fraction: float, count: int) -> None:
    assert request(36, budget=fraction, budget_of="all").budget == Budget(str(fraction), "all", count)


@pytest.mark.parametrize(
    ("layers", "budget", "count"),
    [
        *((102, budget, 29) for budget in (0.29, "0.29", "29%", "29.0%", ".29", "2.9e-1")),  # as floats 0.29 * 100 is 28.999...
        (102, "0.2899999999999999999999999999", 28),  # more digits than a float or a default Decimal product keeps
        (12, "0.9999999999999999999999999999", 9),
        (16, "0.0715", 1),  # the least that the error names for 14 layers
    ],
)
def test_fractions_are_exact(layers: int, budget: str | float, count: int) -> None:
    assert resolve_budget(layers, PlanOptions(budget=budget)).layers == count


@given(layers=st.integers(3, 200), thousandths=st.integers(1, 999), all_layers=st.booleans())
def test_a_fraction_is_the_floor_of_a_whole_number_division(layers: int, thousandths: int, all_layers: bool) -> None:
    expected = thousandths * (layers if all_layers else layers - 2) // 1000
    asked = PlanOptions(budget=str(Decimal(thousandths) / 1000), budget_of="all" if all_layers else "middle")
    if expected:
        assert resolve_budget(layers, asked).layers == expected
    else:
        with pytest.raises(UsageError, match="less than one layer"):
            resolve_budget(layers, asked)


def test_a_request_is_resolved_before_anything_is_measured() -> None:
    asked = request(num_layers=12, strict=True)
    assert (asked.method, asked.budget, asked.strict) == ("mixed", Budget(None, "count", 12), True)
    assert (asked.protected, asked.free, asked.domains) == ((0, 1, 2, 15), tuple(range(3, 15)), ("math", "nonmath"))
    named = request(layers="0,5,3-4", force=True)
    assert (named.method, named.budget, named.chosen, named.forced) == ("manual", Budget(None, "layers", 4), (0, 3, 4, 5), (0,))
    assert request(layers="5", force=True).forced == ()
    assert named.domains == request(method="random").domains == () and request(method="math").domains == ("math",)
    assert request(28).budget == Budget("0.25", "middle", 6)  # where nothing else is asked


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        *(("3-5,9", (3, 4, 5, 9)), ("9,3-5", (3, 4, 5, 9)), ([9, 3, 5, 4], (3, 4, 5, 9)), ("0", (0,)), ("7-7", (7,))),
        *(("11,17, 20", (11, 17, 20)), ("0-34", tuple(range(35)))),
    ],
)
def test_lists_of_layers(asked: Any, expected: tuple[int, ...]) -> None:
    assert parse_layers(asked, 36) == expected


@given(st.sets(st.integers(0, 39), min_size=1))
def test_formatting_is_the_inverse_of_parsing(layers: set[int]) -> None:
    assert parse_layers(format_layers(layers), 41) == tuple(sorted(layers))
    assert (format_layers([9, 3, 4, 5]), format_layers([])) == ("3-5,9", "none")


PROTECTED = {
    "default": (0, 1, 2, 11),
    "none": (),
    "first": (0,),
    "first,last": (0, 11),
    "deepstack": (0, 1, 2),
    "first, last, 7,9-10": (0, 7, 9, 10, 11),
    "5,5,4-6": (4, 5, 6),
    "0-11": tuple(range(12)),
}


@pytest.mark.parametrize(("protect", "layers"), PROTECTED.items(), ids=PROTECTED)
def test_protected(protect: str, layers: tuple[int, ...]) -> None:
    assert protected_layers(facts_of(12), protect) == layers
    assert protected_layers(facts_of(12, deepstack=0), "deepstack") == ()


OUT_OF_RANGE, NO_NUMBER = (
    "is out of range: expected a fraction above 0 and below 1",
    "invalid --budget .*: expected a fraction such as 0.25",
)
NO_LAYER = "invalid layer .*Expected numbers from 0 to 15 and ranges of them, such as 3-5,9"
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"budget": value}, OUT_OF_RANGE) for value in (0, 0.0, 1, "1", "100%", "1e999", -0.1)),
    *(({"budget": value}, NO_NUMBER) for value in ("abc", "", "25 %", " 0.25", "0.25\n", "1/4", "0,25", "0_1", "٠.٢٥", "nan", True)),
    *(({"budget": value}, NO_NUMBER) for value in (float("nan"), float("inf"), "1e-999999999", "0." + "1" * 100_000)),
    *(({"budget": 1.5}, r"Did you mean 1\.5%\?"), ({"budget": "25"}, r"Did you mean 25%\?")),
    *(({"budget": value}, "of 14 layers is less than one layer. The least is 1 layer, from --budget 0.0715 on") for value in (1e-9, "7%")),
    ({"budget": 0.25, "budget_of": "most"}, "--budget-of 'most': expected middle"),
    *(({"num_layers": value}, "--num-layers .*: expected a whole number from 1 to 13") for value in (0, -1, 16, 2.0, "2", True)),
    ({"budget": 0.25, "num_layers": 3}, "got --budget and --num-layers"),
    ({"budget": 0.25, "layers": "3"}, "got --budget and --layers"),
    ({"num_layers": 3, "layers": (3,)}, "got --num-layers and --layers"),
    *(({"budget": "0.99", "budget_of": "all"}, "at least 3 must stay"), ({"layers": "1-14", "force": True}, "at least 3 must stay")),
    *(({"layers": value}, "layer [34] is named twice") for value in ("3,3", "3-5,4", [3, 3])),
    *(({"layers": value}, NO_LAYER) for value in ("16", "14-99", "0-999999", "40-50", "-3", "3-", "3..5", "abc", "3,,5", "", "٣")),
    *(({"layers": value}, NO_LAYER) for value in ([16], [-1], ["3"], [3.0], [True])),
    ({"layers": "5-3"}, "the range 5-3 runs backwards; write 3-5"),
    *(({"layers": value}, "of 16 layers are named; at least one must go and one must stay") for value in ("0-15", ())),
    ({"layers": "5", "parameters": {"alpha": 0.5}}, "parameter 'alpha' belongs to a method, but --layers uses none"),
    ({"layers": "5", "method": "math"}, "--layers names the layers by hand and --method ranks them: leave one of them out"),
    ({"force": True}, "--force removes protected layers that are named by --layers"),
    *(({"protect": value}, "layers from 0 to 15") for value in ("", "first,", "frist", "16", "3-16", "5-3", "-1", "1-2-3", "1.5")),
    *(({"protect": value}, "layers from 0 to 15") for value in ("none,first", "²", "9" * 5000, "a\nb")),
    ({"method": "miced"}, "no strategy 'miced'. Did you mean 'mixed'"),
    ({"parameters": {"alfa": 1}}, "strategy 'mixed' has no parameter 'alfa'. Did you mean 'alpha'"),
    ({"parameters": {"alpha": "1.5"}}, r"alpha is 1.5: expected a number between 0 \(math only\) and 1"),
    ({"parameters": {"alpha": float("nan")}}, "'alpha' of strategy 'mixed' is nan: expected a finite number"),
    ({"method": "math", "parameters": {"alpha": "0.5"}}, "strategy 'math' has no parameter 'alpha'. It takes none"),
    ({"method": "cka", "parameters": {"activations": "both"}}, "is 'both': expected one of input, output"),
    ({"method": "random", "parameters": {"seed": "-1"}}, "seed is -1: expected 0 or more"),
]
UNREACHABLE: list[tuple[dict[str, Any], str]] = [
    ({"num_layers": 13}, r"asks for 13 layers, but only 12 are free \(protected: 0-2,15\). Lower the budget, or protect fewer layers"),
    ({"layers": "0,5"}, r"layer 0 is protected \(first\). Free layers: 3-14. To remove it anyway, add --force"),
    ({"layers": "2"}, r"layer 2 is protected \(DeepStack\)"),
    ({"layers": "15", "protect": "first,last"}, r"layer 15 is protected \(last\). Free layers: 1-14"),
    ({"layers": "7", "protect": "first,7"}, r"layer 7 is protected \(by --protect\). Free layers: 1-6,8-15"),
    ({"layers": (0, 15)}, r"layer 0 is protected \(first\) and layer 15 is protected \(last\).* To remove them anyway, add --force"),
]


@pytest.mark.parametrize(
    ("kind", "options", "message"), [*((UsageError, *row) for row in REFUSED), *((StrategyError, *row) for row in UNREACHABLE)]
)
def test_what_is_refused(kind: type[LayerPruneError], options: dict[str, Any], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        request(**options)
    assert type(caught.value) is kind and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_needs_no_model_to_be_refused() -> None:
    with pytest.raises(UsageError, match="no strategy 'miced'"):
        strategy_of(PlanOptions("miced"))
    with pytest.raises(UsageError, match="No fraction gives one: use --num-layers or --layers"):
        resolve_budget(3, PlanOptions(budget=0.9))
