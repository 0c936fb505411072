"""Selections, plans and refusals as tests of strategies want them."""

from __future__ import annotations

from typing import Any

import pytest

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import make_plan
from hf_layerprune.strategies.request import resolve
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy


def select(strategy: Strategy, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: Any = None) -> Selection:
    """What a strategy selects, given the statistics that it asks for; its default parameters if none are given."""
    return strategy.select(Evidence(strategy.needs, statistics), free, k, strategy.parameters() if parameters is None else parameters)


def plan_of(facts: ModelFacts, method: str | None = None, *, statistics: LayerStatistics | None = None, **options: Any) -> PruningPlan:
    """The plan for the options of `PlanOptions`."""
    return make_plan(facts, resolve(facts, PlanOptions(method, **options)), statistics)


def refusal(kind: type[LayerPruneError], *args: Any, **options: Any) -> str:
    """The text of the error that a plan is refused with: of exactly this class, and one line."""
    with pytest.raises(kind) as caught:
        plan_of(*args, **options)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)
