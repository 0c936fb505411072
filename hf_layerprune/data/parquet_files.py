"""Parquet files: a row by its number, through the row group that holds it."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_layerprune.data.limits import UnusableRecord
from hf_layerprune.data.kept import kept
from hf_layerprune.data.records import Record, check_index
from hf_layerprune.errors import DataError, first_line

MAX_GROUP_BYTES = 8 << 20  # what reading a single row may cost
ROW_GROUP = 16  # rows, in the files that we write
INSTALL = 'pip install "hf-layerprune[train]"'


@dataclass(frozen=True)
class ParquetTable:
    """The rows of one file. The row group read last is kept, so that reading in order reads each once; `ends` are the first
    rows of the row groups, and the number of rows."""

    path: Path
    digest: str
    ends: tuple[int, ...]
    origin: str
    revision: str | None = None
    folder: Path | None = None  # where the paths of pictures begin
    _last: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return self.ends[-1]

    def record(self, index: int) -> Record:
        """The row; UnusableRecord if its row group cannot be decoded."""
        group = bisect.bisect_right(self.ends, check_index(index, len(self))) - 1
        label = f"{self.origin}, row {index}"
        try:
            rows = self._group(group).slice(index - self.ends[group], 1).to_pylist()
        except Exception as error:  # the decoders raise whatever a damaged file leads them to
            raise UnusableRecord(f"{label}: cannot be read ({first_line(error)})") from error
        return Record(label, rows[0], self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}  # what was read is not sent to other processes

    def _group(self, group: int) -> Any:
        if group not in self._last:
            self._last.clear()
            with parquet().ParquetFile(self.path, memory_map=True) as file:
                self._last[group] = file.read_row_group(group)
        return self._last[group]


def open_parquet(path: Path, *, origin: str | None = None, revision: str | None = None, folder: Path | None = None) -> ParquetTable:
    """Read a file's index and hash it. DataError if it is no Parquet file or holds no row."""
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        with parquet().ParquetFile(path) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    except DataError:
        raise
    except Exception as error:  # OSError and pyarrow's own, of several kinds
        raise DataError(f"{path}: cannot be read as Parquet: {first_line(error)}.") from error
    if not sum(counts):
        raise DataError(f"{path}: no row in that file.")
    return ParquetTable(path, digest, (0, *accumulate(counts)), origin or path.name, revision, folder)


def in_small_row_groups(table: ParquetTable, cache: Path, say: Callable[[str], None]) -> ParquetTable:
    """The same rows, from a copy in `cache` if the file's own row groups are large: a row costs the reading of its row group."""
    with parquet().ParquetFile(table.path) as file:
        largest = max(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
    if largest <= MAX_GROUP_BYTES:
        return table

    def copy(folder: Path) -> None:
        say(f"{table.origin}: copying it in small row groups into {cache}, once")
        with parquet().ParquetFile(table.path) as file, parquet().ParquetWriter(folder / "rows.parquet", file.schema_arrow) as writer:
            for batch in file.iter_batches(ROW_GROUP):
                writer.write_batch(batch, row_group_size=ROW_GROUP)

    try:
        found = open_parquet(kept(cache / f"rows-{table.digest[:32]}", copy) / "rows.parquet")
    except DataError:
        raise
    except Exception:  # damaged within: the rows that are not are read from where they are
        return table
    return replace(found, digest=table.digest, origin=table.origin, folder=table.folder)


def parquet() -> ModuleType:
    """pyarrow.parquet, which comes with `datasets`; DataError saying what to install if it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"Parquet files and datasets of the Hub need the package datasets: {INSTALL}.") from error
    return pyarrow.parquet  # type: ignore[no-any-return]
