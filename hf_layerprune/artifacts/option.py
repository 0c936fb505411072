"""The field of a dataclass of options: the command line makes an option of each, from its name, type, default and these words."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str, unit: str = "", shown: str = "") -> Any:
    """A field with its default and help. unit: of its values, or all of them with | between; shown: the default in words, where its
    value does not say it."""
    metadata = {"help": help, "unit": unit, "default": shown}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)
