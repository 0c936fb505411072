"""Records by number: the interface of every kind of source, and tables that are made of others."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Protocol


@dataclass(frozen=True)
class Record:
    """One record of an untrusted source."""

    label: str  # what to call it in messages, "questions.jsonl, line 3"
    fields: Mapping[str, Any]  # its columns, unchecked
    folder: Path | None  # where its paths of images begin, and which they must not leave; None if it may name no files


class RecordTable(Protocol):
    """Records by number, read when they are asked for: training resumes exactly, and memory does not grow with their number.

    A table can be pickled, and used from several processes.
    """

    @property
    def origin(self) -> str:
        """Name, subset and split, for people and for records."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit on the Hub, or None."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that changes when the records do (not when an image does that they name by its path)."""
        ...

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """The record of that number; UnusableRecord if it cannot be read."""
        ...


@dataclass(frozen=True)
class JoinedTables:
    """Several tables as one, in their order."""

    origin: str
    tables: Sequence[RecordTable]
    revision: str | None = None

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(table.digest for table in self.tables).encode()).hexdigest()

    @cached_property
    def _ends(self) -> list[int]:
        ends = [0]
        for table in self.tables:
            ends.append(ends[-1] + len(table))
        return ends

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, index: int) -> Record:
        which = bisect.bisect_right(self._ends, check_index(index, len(self))) - 1
        return self.tables[which].record(index - self._ends[which])


@dataclass(frozen=True)
class DrawnTable:
    """`count` different records of a table, drawn uniformly with a seed, in the table's order."""

    table: RecordTable
    count: int
    seed: int

    @property
    def origin(self) -> str:
        return self.table.origin

    @property
    def revision(self) -> str | None:
        return self.table.revision

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.table.digest} {self.count} {self.seed}".encode()).hexdigest()

    @cached_property
    def _rows(self) -> list[int]:
        return sorted(Random(f"hf-layerprune/draw/{self.seed}").sample(range(len(self.table)), self.count))

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        return self.table.record(self._rows[check_index(index, self.count)])


def part_of(share: Decimal, count: int) -> int:
    """That share of a count, rounded half up, at least one."""
    return max(1, int(share * count + Decimal("0.5")))


def check_index(index: int, length: int) -> int:
    """The index itself if it is one of `length` records; IndexError otherwise, as of a list."""
    if not 0 <= index < length:
        raise IndexError(f"no record {index} of {length}")
    return index
