"""Ranking strategies: which layers of a model can go. The dict below lists ours; other packages add theirs by entry point."""

from __future__ import annotations

from collections.abc import Mapping

from hf_layerprune.errors import StrategyError, UsageError, shown
from hf_layerprune.strategies.cka import CkaStrategy
from hf_layerprune.strategies.domain import DomainStrategy
from hf_layerprune.strategies.interlace import InterlaceStrategy
from hf_layerprune.strategies.interlace_pooled import InterlacePooledStrategy
from hf_layerprune.strategies.mixed import MixedStrategy
from hf_layerprune.strategies.nearest import known_names
from hf_layerprune.strategies.parameters import parse_parameters
from hf_layerprune.strategies.plugins import load_plugin, package, plugins
from hf_layerprune.strategies.random_baseline import RandomStrategy
from hf_layerprune.strategies.strategy import Selection, Strategy, needed_domains

__all__ = [
    "OURS",
    "STRATEGIES",
    "Selection",
    "Strategy",
    "find_strategy",
    "known_strategies",
    "needed_domains",
    "package_of",
    "parse_parameters",
]

OURS = "hf-layerprune"  # the package of the built-in strategies

STRATEGIES: Mapping[str, Strategy] = {
    "math": DomainStrategy("math"),
    "nonmath": DomainStrategy("nonmath"),
    "mixed": MixedStrategy(),
    "cka": CkaStrategy(),
    "interlace": InterlaceStrategy(),
    "interlace-pooled": InterlacePooledStrategy(),
    "random": RandomStrategy(),
}


def known_strategies() -> tuple[str, ...]:
    """The names of all strategies that are installed, sorted; third-party ones are not loaded for it."""
    return tuple(sorted({*STRATEGIES, *(point.name for point in plugins())}))


def find_strategy(name: str) -> Strategy:
    """The strategy of that name, built in or third-party.

    Raises UsageError for an unknown name; StrategyError if two packages claim it, or if a third-party one does not load.
    """
    package_of(name)
    if name in STRATEGIES:
        return STRATEGIES[name]
    return load_plugin(next(point for point in plugins() if point.name == name))


def package_of(name: str) -> str:
    """The one package that a strategy comes from; raises as `find_strategy` does, but loads nothing."""
    packages = [OURS] * (name in STRATEGIES) + [package(point) for point in plugins() if point.name == name]
    if not packages:
        raise UsageError(f"no strategy {shown(name)}. {known_names(name, known_strategies())}")
    if len(packages) > 1:
        raise StrategyError(f"two strategies are named {name!r}, of the packages {' and '.join(packages)}. Uninstall all but one.")
    return packages[0]
