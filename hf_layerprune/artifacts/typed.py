"""Build a dataclass from JSON by the types of its fields, so that whoever reads a record need not check it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_layerprune.errors import shown

Value = TypeVar("Value")


def from_json(kind: type[Value], value: Any, name: str = "it") -> Value:
    """A dataclass whose fields are scalars, `X | None`, `tuple[X, ...]`, `Mapping[str, X]` or dataclasses like it.

    name: what to call the value in errors, such as "data.sources". A field with a default may be missing. ValueError naming the key
    that is missing, unexpected, or of another type; whole numbers are floats too.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {shown(value)}, expected an object")
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}  # type: ignore[arg-type]
    kinds = get_type_hints(kind)
    if missing := [key for key, needed in known.items() if needed and key not in value]:
        raise ValueError(f"{name} lacks the key {missing[0]!r}")
    if unexpected := sorted(value.keys() - known.keys()):
        raise ValueError(f"{name} has an unexpected key {shown(unexpected[0])}")
    return kind(**{key: _typed(kinds[key], item, f"{name}.{key}") for key, item in value.items()})


def _typed(kind: Any, value: Any, name: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None and NoneType in inner else _typed(next(k for k in inner if k is not NoneType), value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(inner[0], item, name) for item in value)
    if origin is not None and origin is not tuple and isinstance(value, Mapping):
        return {key: _typed(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if is_dataclass(kind):
        return from_json(kind, value, name)  # type: ignore[arg-type]
    if type(value) is int and kind is float:
        return float(value)
    if origin is not None or type(value) is not kind:
        expected = {tuple: "a list", None: getattr(kind, "__name__", "")}.get(origin, "an object")
        raise ValueError(f"{name} is {shown(value)}, expected {expected}")
    return value
