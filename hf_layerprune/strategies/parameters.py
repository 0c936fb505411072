"""From NAME=VALUE to a strategy's parameters: the dataclass says names, types and defaults, this reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        if kind not in _EXPECTED and get_origin(kind) is not Literal:
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
        return _read(value, kind)
    except (TypeError, ValueError, OverflowError, KeyError):
        raise UsageError(f"{what} is {shown(value)}: expected {_EXPECTED[kind]}.") from None


def _read(value: object, kind: Any) -> Any:
    """A value as one of the four types, from that type or from text; raises if it is none."""
    if not isinstance(value, (str, int, float) if kind is float else (str, kind)) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}[str(value)]
    read = kind(value)
    if kind is float and not math.isfinite(read):
        raise ValueError
    return read


_EXPECTED = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
