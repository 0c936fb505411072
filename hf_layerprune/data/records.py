"""Records by number: the interface of every kind of source, tables made of others, and how many records may be unusable."""

from __future__ import annotations

import bisect
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from hf_layerprune.errors import DataError, UsageError

LISTED = 100  # unusable records whose reason is recorded; the others are only counted


class UnusableRecord(Exception):
    """A record that cannot be used; the text says which and why. Counted against a Tolerance, never raised to the user."""


class LeftOut(UnusableRecord):
    """A record for which a stage has no use, or that it was asked to leave out; not counted as unusable."""


@dataclass(frozen=True)
class Tolerance:
    """How many records may be unusable: `share` of all of them, rounded down."""

    share: Decimal = Decimal("0.01")

    @classmethod
    def parse(cls, text: str | float) -> Tolerance:
        """Read `1%` or `0.01`, from 0 to below 1; UsageError otherwise."""
        text = str(text)
        try:
            share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except InvalidOperation:
            share = Decimal("nan")
        if not (share.is_finite() and 0 <= share < 1):
            raise UsageError(f"--max-bad {text!r}: expected a share from 0 to below 1, such as 1% or 0.01.")
        return cls(share)

    def check(self, unusable: int, total: int, what: str, reasons: Sequence[str]) -> None:
        """DataError with the first three reasons if too many of `total` are unusable. what: the records in the plural, "math images"."""
        allowed = int(self.share * total)
        if unusable > allowed:
            percent = f"{self.share:%}".rstrip("0").rstrip(".%") + "%"
            raise DataError(
                f"{'; '.join(reasons[:3])}. That makes {unusable} unusable of {total:,} {what}, more than the {allowed} that "
                f"--max-bad {percent} allows. Repair or remove them, or raise --max-bad."
            )


@dataclass(frozen=True)
class Record:
    """One record of an untrusted source."""

    label: str  # what to call it in messages, "questions.jsonl, line 3"
    fields: Mapping[str, Any]  # its columns, unchecked
    folder: Path | None  # where its paths of images begin, and which they must not leave; None if it may name no files


@dataclass(frozen=True)
class RecordTable(ABC):
    """Records by number, read when they are asked for: training resumes exactly, and memory does not grow with their number.

    A table can be pickled, and used from several processes.
    """

    origin: str  # name, subset and split, for people and for records
    digest: str  # sha256 that changes when the records do, but not when an image does that they name by its path
    revision: str | None  # the commit on the Hub, or None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """The record of that number; UnusableRecord if it cannot be read, IndexError if there is none."""


@dataclass(frozen=True)
class PickedTable(RecordTable):
    """Records of one or more tables, in their order."""

    tables: Sequence[RecordTable]
    rows: Sequence[int]  # which of their records, numbered through

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(map(len, self.tables), initial=0))

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        row = self.rows[check_index(index, len(self))]
        which = bisect.bisect_right(self._starts, row) - 1
        return self.tables[which].record(row - self._starts[which])


def joined(origin: str, tables: Sequence[RecordTable], revision: str | None = None) -> RecordTable:
    """Several tables as one."""
    digest = hashlib.sha256("\n".join(table.digest for table in tables).encode()).hexdigest()
    return PickedTable(origin, digest, revision, tables, range(sum(map(len, tables))))


def drawn(table: RecordTable, count: int, seed: int) -> RecordTable:
    """`count` different records of a table, drawn uniformly with a seed, in the table's order."""
    digest = hashlib.sha256(f"{table.digest} {count} {seed}".encode()).hexdigest()
    rows = sorted(Random(f"hf-layerprune/draw/{seed}").sample(range(len(table)), count))
    return PickedTable(table.origin, digest, table.revision, (table,), rows)


def part_of(share: Decimal, count: int) -> int:
    """That share of a count, rounded half up, at least one."""
    return max(1, int(share * count + Decimal("0.5")))


def check_index(index: int, length: int) -> int:
    """The index itself if it is one of `length` records; IndexError otherwise, as of a list."""
    if not 0 <= index < length:
        raise IndexError(f"no record {index} of {length}")
    return index
