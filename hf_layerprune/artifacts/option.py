"""The fields of a dataclass of options: the command line makes an option of each, from its name, type, default and help."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any, Literal, get_args, get_origin

from hf_layerprune.errors import UsageError, shown

VALUE_TYPES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
BOOLEANS = {"true": True, "false": False, True: True, False: False}


def option(default: Any, help: str, unit: str = "", shown: str = "") -> Any:
    """A field with its default and help. unit: of its values, or all of them with | between; shown: the default in words, where its
    value does not say it."""
    metadata = {"help": help, "unit": unit, "default": shown}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def read_value(value: object, kind: Any, what: str) -> Any:
    """`value`, text or already of the kind, as int, float, str, bool or a Literal of texts; UsageError calling it `what` if invalid."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{what} is {shown(value)}: expected one of {', '.join(map(str, get_args(kind)))}.")
        return value
    accepted = {float: (str, int, float), bool: (str, bool)}.get(kind, (str, kind))
    try:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError
        read = BOOLEANS[value] if kind is bool else kind(value)
        if kind is float and not math.isfinite(read):
            raise ValueError
    except (TypeError, ValueError, OverflowError, KeyError):
        raise UsageError(f"{what} is {shown(value)}: expected {VALUE_TYPES[kind]}.") from None
    return read
