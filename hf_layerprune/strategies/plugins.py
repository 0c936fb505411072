"""Strategies of other packages, found by entry point and loaded only when asked for by name."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points

from hf_layerprune.errors import StrategyError, shown
from hf_layerprune.strategies.parameters import field_types
from hf_layerprune.strategies.strategy import Strategy, unknown_needs

GROUP = "hf_layerprune.strategies"


def plugins() -> tuple[EntryPoint, ...]:
    """The entry points of the group, by name; none of them is loaded."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.name, package(point))))


def package(point: EntryPoint) -> str:
    """The name of the package that registers an entry point."""
    return point.dist.name if point.dist else "an unknown package"


def load_plugin(point: EntryPoint) -> Strategy:
    """The strategy of an entry point; StrategyError naming it and its package if it does not load or is no strategy."""
    who = f"strategy {point.name!r} of package {package(point)!r}"
    try:
        strategy = point.load()
        problem = _problem(strategy, point.name)
    except Exception as error:  # a stranger's module may raise anything
        raise StrategyError(f"{who} cannot be loaded: {one_line(error)}. Repair or uninstall the package.") from error
    if problem:
        raise StrategyError(f"{who} is no strategy: {problem}. Repair or uninstall the package.")
    return strategy  # type: ignore[no-any-return]  # checked by _problem


def one_line(error: BaseException) -> str:
    """An exception's type and text, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")[:400]


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
        return f"its needs name no statistics: {shown(strategy.needs)}"
    field_types(strategy)
    return None
