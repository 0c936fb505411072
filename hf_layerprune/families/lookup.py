"""Look values up in a config by path, refusing what is not what it should be instead of falling back to a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_layerprune.errors import FamilyError, shown


def find(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path of keys joined by dots, or None where a key is absent or its parent is no object; "" is the config itself."""
    value: Any = config
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def joined(path: str, key: str) -> str:
    """The path of a key below another."""
    return f"{path}.{key}" if path else key


def section(config: Mapping[str, Any], path: str, where: str) -> Mapping[str, Any]:
    """The object at a path; FamilyError naming `where` if there is none."""
    value = find(config, path)
    if not isinstance(value, Mapping):
        raise FamilyError(f"{where}: {path!r} is {shown(value)}, expected an object. Download config.json again.")
    return value


def positive(config: Mapping[str, Any], path: str, where: str) -> int:
    """The whole number of at least 1 at a path; FamilyError naming `where` if there is none.

    What is larger than any tensor is refused: a product of such numbers can have too many digits to be written out.
    """
    value = find(config, path)
    if type(value) is not int or not 1 <= value < 1 << 63:
        expected = "a whole number of at least 1 and below 2^63"
        raise FamilyError(f"{where}: {path!r} is {shown(value)}, expected {expected}. Download config.json again.")
    return value


def numbers_below(value: Any, limit: int) -> bool:
    """Whether a value is a list of different whole numbers from 0 to limit - 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < limit for item in value) and len(set(value)) == len(value)
