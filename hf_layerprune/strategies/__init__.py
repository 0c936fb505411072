"""Ranking strategies: which layers of a model can go. The dict below lists ours; other packages add theirs by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass

from hf_layerprune.errors import StrategyError, shown
from hf_layerprune.registry import Registry
from hf_layerprune.strategies.cosine import CosineStrategy, MixedStrategy, equation_9
from hf_layerprune.strategies.interlace import InterlaceStrategy
from hf_layerprune.strategies.parameters import field_types, parse_parameters
from hf_layerprune.strategies.pooled import CkaStrategy, InterlacePooledStrategy
from hf_layerprune.strategies.random import RandomStrategy
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy, needed_domains, unknown_needs

__all__ = [
    "STRATEGIES",
    "Evidence",
    "Selection",
    "Strategy",
    "find_strategy",
    "known_strategies",
    "needed_domains",
    "package_of",
    "parse_parameters",
]

STRATEGIES: Mapping[str, Strategy] = {
    "math": CosineStrategy("math", equation_9(0.0)),
    "nonmath": CosineStrategy("nonmath", equation_9(1.0)),
    "mixed": MixedStrategy(),
    "cka": CkaStrategy(),
    "interlace": InterlaceStrategy(),
    "interlace-pooled": InterlacePooledStrategy(),
    "random": RandomStrategy(),
}


def known_strategies() -> tuple[str, ...]:
    """The names of all strategies that are installed, sorted; those of other packages are not loaded for it."""
    return _REGISTRY.names()


def find_strategy(name: str) -> Strategy:
    """The strategy of that name, ours or another package's.

    Raises UsageError for an unknown name; StrategyError if two packages claim it, or if another package's does not load.
    """
    return _REGISTRY.find(name)


def package_of(name: str) -> str:
    """The one package that a strategy comes from; raises as `find_strategy` does, but loads nothing."""
    return _REGISTRY.package_of(name)


def _problem(strategy: object, name: str) -> str | None:
    """Why an object cannot serve as the strategy `name`, or None."""
    if isinstance(strategy, type):
        return f"{strategy.__name__} is a class, expected an instance"
    if not isinstance(strategy, Strategy):
        return f"got {type(strategy).__name__}, expected name, paper, score_meaning, needs, parameters and select"
    if strategy.name != name:
        return f"it calls itself {strategy.name!r}"
    if not (isinstance(strategy.parameters, type) and is_dataclass(strategy.parameters)):
        return "its parameters are no dataclass"
    if not isinstance(strategy.needs, frozenset) or unknown_needs(strategy):
        return f"its needs name nothing that there is: {shown(strategy.needs)}"
    field_types(strategy)
    return None


_REGISTRY = Registry("strategy", "strategies", "hf_layerprune.strategies", STRATEGIES, _problem, StrategyError)
