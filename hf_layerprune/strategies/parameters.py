"""From NAME=VALUE to a strategy's parameters: the dataclass says names, types and defaults, this reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_layerprune.errors import StrategyError, UsageError, shown
from hf_layerprune.registry import known_names
from hf_layerprune.strategies.strategy import Strategy


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
        if kind not in _READERS and get_origin(kind) is not Literal:
            what = f"parameter {name!r} of strategy {strategy.name!r}"
            raise StrategyError(f"{what} is declared {kind}, expected int, float, str, bool or a Literal of texts.")
    return types


def read_value(value: object, kind: Any, what: str) -> Any:
    """`value` as `kind`: int, float, str, bool or a Literal of texts; UsageError calling it `what` if it is none."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{what} is {shown(value)}: expected one of {', '.join(map(str, get_args(kind)))}.")
        return value
    try:
        return _READERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{what} is {shown(value)}: expected {_EXPECTED[kind]}.") from None


def _integer(value: object) -> int:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return int(value)
    raise TypeError


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not math.isfinite(number := float(value)):
        raise TypeError
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise TypeError
    return value == "true"


_READERS: Mapping[type, Callable[[object], object]] = {int: _integer, float: _number, str: _text, bool: _truth}
_EXPECTED = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
