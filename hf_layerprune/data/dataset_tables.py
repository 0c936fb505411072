"""Rows of an Arrow file, through `datasets`: what was drawn from the Hub, and Parquet files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.data.records import Record, UnusableRecord, check_index
from hf_layerprune.data.store import Entry
from hf_layerprune.errors import DataError, first_line

BATCH = 100  # rows that are written at once
ROWS = "rows.arrow"
SAMPLE = 1000  # rows from which the types of the columns are inferred, where no schema states them


@dataclass(frozen=True)
class DatasetTable:
    """The rows of one file, memory-mapped."""

    rows: Any  # a `datasets.Dataset` in Arrow format, so that no image is decoded
    digest: str
    origin: str
    revision: str | None = None
    folder: Path | None = None  # where the paths of images begin

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        """The row; UnusableRecord if it holds what cannot be decoded."""
        label = f"{self.origin}, row {check_index(index, len(self))}"
        try:
            (row,) = self.rows[index].to_pylist()
        except ValueError as error:  # a text that is not UTF-8, a date that is none
            raise UnusableRecord(f"{label}: cannot be read ({first_line(error)})") from error
        return Record(label, row, self.folder)


def open_rows(path: Path, digest: str, origin: str, revision: str | None = None, folder: Path | None = None) -> DatasetTable:
    """The rows of a file that `write_rows` wrote. digest: of what they were read from; revision: the commit on the Hub."""
    return DatasetTable(import_datasets().Dataset.from_file(str(path)).with_format("arrow"), digest, origin, revision, folder)


def open_parquet(path: Path, cache: Path | None, say: Callable[[str], None]) -> DatasetTable:
    """The rows of a Parquet file, copied once into an Arrow file in `cache`: a Parquet file cannot be read by row.

    DataError if it is not a Parquet file, is damaged, or holds no row.
    """
    import_datasets()

    def copy(folder: Path) -> None:
        say(f"{path.name}: copying its rows into {place}, once")
        try:
            write_rows(folder / ROWS, _parquet_tables(path))
        except Exception as error:  # OSError and pyarrow's own, of several kinds
            raise DataError(f"{path}: cannot be read as Parquet: {first_line(error)}. Fetch or write it again.") from error

    digest, place = file_digest(path), cache or kept_folder("data")
    rows = Entry(place, f"rows-{digest[:32]}").build(copy) / ROWS
    table = open_rows(rows, digest, path.name, folder=path.parent)
    if not len(table):
        raise DataError(f"{path}: no row in that file.")
    return table


def write_rows(target: Path, tables: Iterable[Any]) -> None:
    """Write one or more tables of pyarrow, of the same columns, as they come; the file appears when it is whole."""
    import pyarrow

    staging, writer = target.with_suffix(".tmp"), None
    for table in tables:
        writer = writer or pyarrow.ipc.new_stream(str(staging), table.schema)
        writer.write_table(table)
    writer.close()  # type: ignore[union-attr]  # there is one table at least
    os.replace(staging, target)


def tables_of(rows: Iterable[Mapping[str, Any]], schema: Any = None) -> Iterator[Any]:
    """Rows as tables of pyarrow, at least one. schema: theirs, or None to infer it from the first rows."""
    import pyarrow

    left = iter(rows)
    first = pyarrow.Table.from_pylist([] if schema is not None else list(islice(left, SAMPLE)), schema=schema)
    yield first
    while batch := list(islice(left, BATCH)):
        yield pyarrow.Table.from_pylist(batch, schema=first.schema)


def file_digest(path: Path) -> str:
    """sha256 of a file's content; DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def import_datasets() -> Any:
    """The package `datasets`; DataError saying what to install if it is missing."""
    try:
        import datasets
    except ImportError as error:
        install = 'pip install "hf-layerprune[train]"'
        raise DataError(f"Parquet files and datasets of the Hub need the package datasets: {install}.") from error
    return datasets


def _parquet_tables(path: Path) -> Iterator[Any]:
    """The rows of a file, with the types that `datasets` reads: the values of a dictionary instead of their numbers."""
    from pyarrow import Table, parquet

    with parquet.ParquetFile(path) as file:
        schema = import_datasets().Features.from_arrow_schema(file.schema_arrow).arrow_schema
        yield schema.empty_table()
        for batch in file.iter_batches(BATCH):
            yield Table.from_batches([batch]).cast(schema)
