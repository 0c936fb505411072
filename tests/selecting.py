"""Call a strategy as the planner does, on statistics made by hand."""

from __future__ import annotations

from typing import Any

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy


def select(strategy: Strategy, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: Any) -> Selection:
    """What a strategy selects, given the statistics that it asks for."""
    return strategy.select(Evidence(strategy.needs, statistics), free, k, parameters)
