"""The strategies by name: the dict below lists ours, other packages add theirs by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_origin, get_type_hints

from hf_layerprune.artifacts.option import VALUE_TYPES, read_value
from hf_layerprune.errors import StrategyError, UsageError, shown
from hf_layerprune.registry import Registry, known_names
from hf_layerprune.strategies.cosine import CosineStrategy, MixedStrategy
from hf_layerprune.strategies.interlace import InterlaceStrategy
from hf_layerprune.strategies.pooled import CkaStrategy, InterlacePooledStrategy
from hf_layerprune.strategies.random import RandomStrategy
from hf_layerprune.strategies.strategy import Strategy, unknown_needs

STRATEGIES: Mapping[str, Strategy] = {
    "math": CosineStrategy("math", {"math": 1.0}),
    "nonmath": CosineStrategy("nonmath", {"nonmath": 1.0}),
    "mixed": MixedStrategy(),
    "cka": CkaStrategy(),
    "interlace": InterlaceStrategy(),
    "interlace-pooled": InterlacePooledStrategy(),
    "random": RandomStrategy(),
}


def _problem(strategy: object, name: str) -> str | None:
    """Why an object cannot serve as the strategy `name`, or None."""
    if isinstance(strategy, type):
        return f"{strategy.__name__} is a class, expected an instance"
    if not isinstance(strategy, Strategy):
        return f"got {type(strategy).__name__}, expected name, paper, score_meaning, needs, parameters and select"
    if strategy.name != name:
        return f"it calls itself {strategy.name!r}"
    if not (isinstance(strategy.parameters, type) and is_dataclass(strategy.parameters)):
        return "its parameters are not a dataclass"
    if not isinstance(strategy.needs, frozenset) or unknown_needs(strategy):
        return f"unknown needs: {shown(strategy.needs)}"
    field_types(strategy)
    return None


def parse_parameters(strategy: Strategy, assignments: Mapping[str, object]) -> Any:
    """An instance of `strategy.parameters`; values are Python's own or text from the command line.

    Raises UsageError for an unknown name, a wrong type or a value that the dataclass refuses.
    """
    types = field_types(strategy)
    for name in assignments:
        if name not in types:
            known = known_names(name, types) if types else "It takes none."
            raise UsageError(f"strategy {strategy.name!r} has no parameter {shown(name)}. {known}")
    values = {
        name: read_value(value, types[name], f"parameter {name!r} of strategy {strategy.name!r}") for name, value in assignments.items()
    }
    try:
        return strategy.parameters(**values)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:  # a third-party dataclass may refuse a value in its own words
        raise UsageError(f"the parameters of strategy {strategy.name!r} are refused: {shown(str(error))}.") from error


def field_types(strategy: Strategy) -> dict[str, Any]:
    """The dataclass's fields and their types; StrategyError for a type that no command line could give."""
    hints = get_type_hints(strategy.parameters)
    types = {item.name: hints[item.name] for item in fields(strategy.parameters)}
    for name, kind in types.items():
        if kind not in VALUE_TYPES and get_origin(kind) is not Literal:
            what = f"parameter {name!r} of strategy {strategy.name!r}"
            raise StrategyError(f"{what} is declared {kind}, expected int, float, str, bool or a Literal of texts.")
    return types


_REGISTRY = Registry("strategy", "strategies", "hf_layerprune.strategies", STRATEGIES, _problem, StrategyError)
known_strategies, find_strategy, package_of = _REGISTRY.names, _REGISTRY.find, _REGISTRY.package_of
