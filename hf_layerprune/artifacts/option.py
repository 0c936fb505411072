"""The fields of a dataclass of options: the command line makes an option of each, from its name, type, default and help."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any, Literal, get_args, get_origin

from hf_layerprune.errors import UsageError, shown

VALUE_TYPES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
DTYPES = {
    "auto": ("auto",),
    "float32": ("float32", "float", "fp32"),
    "bfloat16": ("bfloat16", "bf16"),
    "float16": ("float16", "half", "fp16"),
    "float64": ("float64", "double", "fp64"),
}  # by torch's name, how each is spelt
# The option of every stage that loads a model, as `models.loading.parse_device_map` takes it.
DEVICE_MAP = (None, "Spread the model over devices: auto, balanced, sequential, or a JSON file of module: device.", "MAP", "one device")
BOOLEANS = {"true": True, "false": False, True: True, False: False}


def option(default: Any, help: str, unit: str = "", shown: str = "") -> Any:
    """A field with its default and help. unit: of its values, or all of them with | between; shown: the default in words, where its
    value does not say it."""
    metadata = {"help": help, "unit": unit, "default": shown}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def dtype_named(dtype: object) -> str | None:
    """torch's name of a floating-point type, or auto, from any of its spellings or a `torch.dtype`; None for anything else."""
    spelt = str(dtype).strip().lower().removeprefix("torch.")
    return next((name for name, spellings in DTYPES.items() if spelt in spellings), None)


def parse_dtype(dtype: object) -> str:
    """As `dtype_named`; UsageError for anything else."""
    if (found := dtype_named(dtype)) is None:
        raise UsageError(f"dtype {shown(dtype)}: expected auto, float32 (fp32), bfloat16 (bf16), float16 (fp16, half) or float64.")
    return found


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
