"""What a strategy is given: the evidence that it asked for, and parameters of the right types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pytest

from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.plugins import find_strategy, parse_parameters
from hf_layerprune.strategies.strategy import Evidence, NoParameters
from tests.plans import facts_of, plan_of, statistics_of

READERS: dict[str, Callable[[Evidence], object]] = {
    "math.cosine": lambda evidence: evidence.statistics,
    "loss": lambda evidence: evidence.loss(frozenset({3})),
    "weights": lambda evidence: evidence.layer_weights(3),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("asked", [None, *READERS])
def test_what_was_not_asked_for_or_is_not_there_raises(reader: str, asked: str | None) -> None:
    needs = frozenset() if asked is None else frozenset({asked})
    whole = Evidence(needs, statistics_of(), lambda drop, repair: {"math": float(len(drop))}, lambda layer: {"w": np.ones(layer)})
    if reader == asked:
        assert READERS[reader](whole)
        with pytest.raises(StrategyError, match=r"this strategy needs .*, but got none"):
            READERS[reader](Evidence(needs))
    else:
        with pytest.raises(StrategyError, match=f'without asking for them: add .*"{reader}" to its needs'):
            READERS[reader](whole)


def test_statistics_losses_and_repairs_are_handed_through() -> None:
    statistics, asked = statistics_of(), list[object]()
    assert Evidence(frozenset({"math.cosine"}), statistics).statistics is statistics
    evidence = Evidence(frozenset({"loss"}), losses=lambda drop, repair: asked.append((drop, repair)) or {"math": 0.5})  # type: ignore[func-returns-value]
    assert evidence.loss(frozenset({3, 4})) == evidence.loss(frozenset({3, 4}), repair="fold") == {"math": 0.5}
    assert asked == [(frozenset({3, 4}), "none"), (frozenset({3, 4}), "fold")]


SEARCHING = """
from hf_layerprune.strategies.strategy import NoParameters, Selection

class Searching:
    name, paper, score_meaning, needs, parameters = "searching", "ours", "none", frozenset({"loss"}), NoParameters

    def select(self, evidence, free, k, parameters):
        losses = {layer: evidence.loss(frozenset({layer}))["math"] for layer in free}
        return Selection(losses, sorted(free, key=losses.get)[:k])

STRATEGY = Searching()
"""


def test_a_strategy_that_reads_losses(install_plugin: Callable[..., None]) -> None:
    install_plugin("search-plugin", "searching", SEARCHING)
    with pytest.raises(StrategyError, match="strategy 'searching' of package 'search-plugin': this strategy needs losses of shortened"):
        plan_of(facts_of(), "searching", num_layers=2)
    evidence = Evidence(frozenset({"loss"}), losses=lambda drop, repair: {"math": -float(max(drop))})
    assert tuple(find_strategy("searching").select(evidence, (3, 4, 5), 2, NoParameters()).drop) == (5, 4)


# Its parameters


@dataclass(frozen=True)
class EveryType:
    count: int = 1
    share: float = 0.5
    word: str = "a"
    flag: bool = False
    side: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        if self.word == "bad":
            raise ValueError("word may not\nbe bad")


class Typed:
    name = "typed"
    parameters: type = EveryType


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": "3", "share": "0.25", "word": "b", "flag": "true", "side": "right"}, EveryType(3, 0.25, "b", True, "right")),
        ({"count": -3, "share": 1, "flag": False, "side": "left"}, EveryType(-3, 1.0)),
        ({"flag": "false", "share": "1e-3"}, EveryType(share=0.001)),
        ({"share": np.float64(0.25)}, EveryType(share=0.25)),
    ],
)
def test_text_and_python_values_are_read_alike(given: dict[str, object], expected: EveryType) -> None:
    parsed = parse_parameters(Typed(), given)  # type: ignore[arg-type]
    assert parsed == expected
    assert [type(getattr(parsed, item.name)) for item in fields(EveryType)] == [int, float, str, bool, str]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("count", ("x", "1.0", 1.0, True), "expected a whole number."),
        ("share", ("lots", "nan", float("inf"), True, None, 10**400), "expected a finite number."),
        ("word", (3,), "expected text."),
        ("flag", ("yes", 1), "expected true or false."),
        ("side", ("up",), "expected one of left, right."),
        ("cuont", (1,), "strategy 'typed' has no parameter 'cuont'. Did you mean 'count'? Known: count, flag, share, side, word."),
        ("word", ("bad",), "the parameters of strategy 'typed' are refused: 'word may not\\nbe bad'."),
    ],
)
def test_a_value_that_does_not_fit_is_a_usage_error_of_one_line(name: str, values: tuple[object, ...], message: str) -> None:
    for value in values:
        with pytest.raises(UsageError) as caught:
            parse_parameters(Typed(), {name: value})  # type: ignore[arg-type]
        assert str(caught.value).endswith(message) and "\n" not in str(caught.value) and len(str(caught.value)) < 250
        assert f"'{name}' of strategy 'typed' is " in str(caught.value) or "strategy 'typed'" in message
