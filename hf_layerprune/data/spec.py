"""Name a source of records on one line: `NAME_OR_PATH,subset=...,split=...,count=...,weight=...,revision=...`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

from hf_layerprune.errors import UsageError, shown
from hf_layerprune.registry import did_you_mean

KEYS = ("subset", "split", "count", "weight", "revision")
EXAMPLE = "questions.jsonl,count=1000 or lmms-lab/LLaVA-OneVision-Data,subset=CLEVR-Math(MathV360K),weight=0.5"

Number = TypeVar("Number", int, Decimal)


@dataclass(frozen=True)
class DataSpec:
    """A source of records and what to take of it; UsageError for a value that cannot be meant."""

    name: str  # a file, a folder, `mini` or an id on the Hub
    subset: str | None = None  # one configuration of a Hub dataset, subfolder of a folder, or subtask or domain of mini; None for all
    split: str | None = None  # of a Hub dataset, None for `train`
    count: int | None = None  # so many records, drawn uniformly; None for all
    weight: Decimal = Decimal(1)  # how often an epoch sees each of them; 2: twice, 0.5: half of them
    revision: str | None = None  # of a Hub dataset

    def __post_init__(self) -> None:
        if not self.name.strip() or "\0" in self.name:
            raise UsageError(f"the data source {shown(self.name)} has no name; expected for example {EXAMPLE}.")
        for key in ("subset", "split", "revision"):
            if (value := getattr(self, key)) is not None and (not value.strip() or "\0" in value):
                raise UsageError(f"{shown(self.name)}: {key}={value} is empty; leave it out, or give a name.")
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise UsageError(f"{shown(self.name)}: count={self.count}: expected a whole number of records, at least 1.")
        if not (isinstance(self.weight, Decimal) and self.weight.is_finite() and 0 < self.weight <= 1000):
            raise UsageError(f"{shown(self.name)}: weight={self.weight}: expected a number above 0, at most 1000, such as 2 or 0.5.")

    @classmethod
    def parse(cls, text: str) -> DataSpec:
        """Read the line; a comma that belongs to a name or value is written twice. UsageError naming the key that is wrong."""
        name, *options = _split(text)
        found: dict[str, str] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key not in KEYS or not equals:
                raise _unknown(text, key, equals)
            if key in found:
                raise UsageError(f"{shown(text)}: {key} is given twice.")
            found[key] = value
        count, weight = found.pop("count", None), _number(text, "weight", Decimal, found.pop("weight", "1"))
        return cls(name, **found, count=None if count is None else _number(text, "count", int, count), weight=weight)

    def as_recorded(self, commit: str | None) -> DataSpec:
        """The same source as a published record names it: a dataset on the Hub pinned to its commit, a file or folder (commit is
        None) by its last name alone, for where it lay is nobody's business."""
        if commit is not None:
            return replace(self, revision=commit)
        last = Path(os.path.abspath(self.name)).name
        return replace(self, name=last if last.strip() else self.name)

    def __str__(self) -> str:
        """The line that parses to this value."""
        defaults = {"weight": Decimal(1)}
        given = [(key, value) for key in KEYS if (value := getattr(self, key)) is not None and value != defaults.get(key)]
        return ",".join([_escape(self.name), *(f"{key}={_escape(str(value))}" for key, value in given)])


def _split(text: str) -> list[str]:
    """At single commas; two in a row are one that belongs to the text."""
    parts = [""]
    for piece in re.findall(r",,|,|[^,]+", text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += "," if piece == ",," else piece
    return parts


def _escape(text: str) -> str:
    return text.replace(",", ",,")


def _number(text: str, key: str, kind: Callable[[str], Number], value: str) -> Number:
    try:
        return kind(value if value.isascii() else "")
    except (ValueError, InvalidOperation):
        raise UsageError(f"{shown(text)}: {key}={value}: expected a {'whole ' if kind is int else ''}number.") from None


def _unknown(text: str, key: str, equals: str) -> UsageError:
    known = f"Known: {', '.join(KEYS)}. A comma that belongs to a name is written twice."
    if not equals:
        return UsageError(f"{shown(text)}: {shown(key)} is not key=value. {known}")
    return UsageError(f"{shown(text)}: no key {shown(key)}. {did_you_mean(key, KEYS)}{known}")
