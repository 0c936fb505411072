"""What a strategy is given: what it asked for, and an error for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.plugins import STRATEGIES
from hf_layerprune.strategies.strategy import Evidence, NoParameters, Selection
from tests.refused_plans import plan_of
from tests.selecting import select

READERS: dict[str, Callable[[Evidence], object]] = {
    "math.cosine": lambda evidence: evidence.statistics,
    "loss": lambda evidence: evidence.loss(frozenset({3})),
    "weights": lambda evidence: evidence.layer_weights(3),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("asked", [None, *READERS])
def test_what_was_not_asked_for_raises(make_statistics: Any, reader: str, asked: str | None) -> None:
    needs = frozenset() if asked is None else frozenset({asked})
    whole = Evidence(needs, make_statistics(), lambda drop, repair: {"math": float(len(drop))}, lambda layer: {"w": np.ones(layer)})
    if reader == asked:
        assert READERS[reader](whole)
    else:
        with pytest.raises(StrategyError, match=f'without asking for them: add .*"{reader}" to its needs'):
            READERS[reader](whole)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("math.cosine", "needs statistics, but got none: probe the model first"),
        ("loss", "needs losses of shortened models, but got none"),
        ("weights", "needs the layers' weights, but got none"),
    ],
)
def test_what_is_not_there_raises(reader: str, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        READERS[reader](Evidence(frozenset({reader})))


def test_a_drop_set_and_its_repair_are_passed_on() -> None:
    asked: list[object] = []
    evidence = Evidence(frozenset({"loss"}), losses=lambda drop, repair: asked.append((drop, repair)) or {"math": 0.5})  # type: ignore[func-returns-value]
    assert evidence.loss(frozenset({3, 4})) == evidence.loss(frozenset({3, 4}), repair="fold") == {"math": 0.5}
    assert asked == [(frozenset({3, 4}), "none"), (frozenset({3, 4}), "fold")]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "random"])
def test_ours_say_where_statistics_are_missing(name: str) -> None:
    with pytest.raises(StrategyError, match="needs statistics, but got none"):
        select(STRATEGIES[name], None, (1, 2), 1, STRATEGIES[name].parameters())


PLUGIN = """
from hf_layerprune.strategies.strategy import Selection
from hf_layerprune.strategies.strategy import NoParameters

class Searching:
    name, paper, score_meaning, needs, parameters = "searching", "ours", "none", frozenset({"loss"}), NoParameters

    def select(self, evidence, free, k, parameters):
        losses = {layer: evidence.loss(frozenset({layer}))["math"] for layer in free}
        return Selection(losses, sorted(free, key=losses.get)[:k])

STRATEGY = Searching()
"""


def test_a_plan_that_nobody_measures_losses_for_is_refused(make_facts: Any, install_plugin: Callable[..., None]) -> None:
    install_plugin("search-plugin", "searching", PLUGIN)
    with pytest.raises(
        StrategyError, match="strategy 'searching' of package 'search-plugin': this strategy needs losses of shortened models"
    ):
        plan_of(make_facts(), "searching", num_layers=2)


def test_the_same_strategy_works_where_losses_are_given(install_plugin: Callable[..., None]) -> None:
    from hf_layerprune.strategies.plugins import find_strategy

    install_plugin("search-plugin-two", "searching", PLUGIN)
    evidence = Evidence(frozenset({"loss"}), losses=lambda drop, repair: {"math": -float(max(drop))})
    selection: Selection = find_strategy("searching").select(evidence, (3, 4, 5), 2, NoParameters())
    assert tuple(selection.drop) == (5, 4)


def test_statistics_are_handed_through(make_statistics: Callable[[], LayerStatistics]) -> None:
    statistics = make_statistics()
    assert Evidence(frozenset({"math.cosine"}), statistics).statistics is statistics
