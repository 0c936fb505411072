"""Tables through `datasets`: Parquet files, and records drawn once from a dataset on the Hub, both read from Arrow files that are kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.jsonfile import dump_json, kept_folder, read_json, write_atomic
from hf_layerprune.data.image_files import content_digest
from hf_layerprune.data.records import Record, RecordTable, UnusableRecord, check_index, joined, part_of
from hf_layerprune.data.store import Entry
from hf_layerprune.errors import DataError, first_line
from hf_layerprune.hub.errors import Call, hub_errors

if TYPE_CHECKING:
    from hf_layerprune.data.tables import DataSpec

Say = Callable[[str], None]  # told what takes long
BATCH = 100  # rows that are written at once
SAMPLE = 1000  # rows from which the types of the columns are inferred, where no schema states them
ROWS = "rows.arrow"
FORMAT = 2
DRAW = "draw.json"  # what was drawn, beside the files of rows
WINDOW = 1000  # records, out of ten row groups at a time, among which the next one is drawn
MAX_IMAGE_BYTES = 256 << 20


@dataclass(frozen=True)
class DatasetTable(RecordTable):
    """The rows of one Arrow file, memory-mapped."""

    rows: Any  # a `datasets.Dataset` in Arrow format, so that no image is decoded
    folder: Path | None  # where the paths of images begin

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        """The row; UnusableRecord if it holds what cannot be decoded."""
        label = f"{self.origin}, row {check_index(index, len(self))}"
        try:
            (row,) = self.rows[index].to_pylist()
        except ValueError as error:  # a text that is not UTF-8, an invalid date
            raise UnusableRecord(f"{label}: cannot be read ({first_line(error)})") from error
        return Record(label, row, self.folder)


def open_parquet(path: Path, cache: Path | None, say: Say) -> DatasetTable:
    """The rows of a Parquet file, copied once into an Arrow file in `cache`: a Parquet file cannot be read by row.

    DataError if it is not a Parquet file, is damaged, or holds no row.
    """
    _datasets()  # what is missing is said before the file is read

    def copy(folder: Path) -> None:
        say(f"{path.name}: copying its rows into {place}, once")
        try:
            _write_rows(folder / ROWS, _parquet_tables(path))
        except Exception as error:  # OSError and pyarrow's own, of several kinds
            raise DataError(f"{path}: cannot be read as Parquet: {first_line(error)}. Fetch or write it again.") from error

    try:
        with path.open("rb") as file:
            digest, place = hashlib.file_digest(file, "sha256").hexdigest(), cache or kept_folder("data")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    rows = _read_rows(Entry(place, f"rows-{digest[:32]}").build(copy) / ROWS)
    if not len(rows):
        raise DataError(f"{path}: no row in that file.")
    return DatasetTable(path.name, digest, None, rows, path.parent)


def open_hub_dataset(
    spec: DataSpec,
    cache: Path | None,
    seed: int,
    share: Decimal | None,
    token: str | bool | None,
    local_files_only: bool,
    say: Say,
    *,
    allow_fewer: bool = False,
) -> RecordTable:
    """The records drawn from a dataset at one commit; drawn now, unless that was done before.

    Of several subsets each gives in proportion to its size where the dataset states sizes, else the same number. Within a subset
    row groups come in a random order and records are drawn from a window of a thousand of them: nearly uniform, and exactly
    so if all are taken. No code of the dataset is run. Raises DataError for what the Hub refuses, or if there are too few.
    """
    from huggingface_hub import HfApi, constants

    _datasets()  # what is missing is said before anything is asked of the Hub
    place, prefix = cache or kept_folder("data"), f"{_file_name(spec.name)}-"
    asked = {"format": FORMAT, "spec": str(replace(spec, weight=Decimal(1), revision=None)), "seed": seed, "share": share and str(share)}
    if local_files_only or constants.is_offline_mode():
        table = _drawn_before(place.glob(f"{prefix}*/{DRAW}"), spec, asked)
    else:
        with hub_errors(Call(spec.name, spec.revision, token, dataset=True)):
            commit = HfApi().dataset_info(spec.name, revision=spec.revision, token=token).sha
        if commit is None:
            raise DataError(f"{spec.name}: the Hub names no commit for it. Try again later.")
        key, draw = {**asked, "revision": spec.revision, "commit": commit}, _Draw(spec, commit, seed, share, token, say)
        table = _table(Entry.of(place, key, prefix=prefix).build(lambda folder: draw.fill(folder, key)), spec)
    if spec.count is not None and len(table) < spec.count and not allow_fewer:
        raise DataError(f"{spec}: {len(table):,} records were found there. Leave count out to take them all.")
    return table


def _drawn_before(found: Iterable[Path], spec: DataSpec, asked: Mapping[str, Any]) -> RecordTable:
    """The newest draw of what is asked, of the revision that the spec names, be it by its commit."""
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        record = read_json(path, "record of a draw")
        if asked.items() <= record.items() and spec.revision in (record["revision"], record["commit"]):
            return _table(path.parent, spec)
    remedy = "Draw it once online with the same options and seed, without --local-files-only and HF_HUB_OFFLINE."
    raise DataError(f"{spec.name} is not in the cache as asked for. {remedy}")


def _table(folder: Path, spec: DataSpec) -> RecordTable:
    record = read_json(folder / DRAW, "record of a draw")
    commit, split = record["commit"], record["split"]
    tables = []
    for part in record["parts"]:
        path = folder / part["file"]
        tables.append(DatasetTable(f"{spec.name}, {part['subset']}, {split}", content_digest(path), commit, _read_rows(path), None))
    return tables[0] if len(tables) == 1 else joined(f"{spec.name}, {spec.subset or 'all subsets'}, {split}", tables, commit)


@dataclass(frozen=True)
class _Draw:
    """A draw of records from a dataset's stream at one commit."""

    spec: DataSpec
    commit: str
    seed: int
    share: Decimal | None
    token: str | bool | None
    say: Say

    @property
    def split(self) -> str:
        return self.spec.split or "train"

    @property
    def source(self) -> dict[str, Any]:
        """Which dataset: arguments that `datasets` takes."""
        return {"path": self.spec.name, "revision": self.commit, "token": self.token}

    def fill(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Draw from every subset into a file of its own; what an interrupted run finished stays."""
        with hub_errors(Call(self.spec.name, self.commit, self.token, dataset=True)):
            subsets = self.subsets()
            quotas = _quotas(self.spec, self.share, [self.stated_size(subset) for subset in subsets])
        while True:
            files = [self.drawn(folder, subset, quota) for subset, quota in zip(subsets, quotas)]
            rows = [len(_read_rows(path)) for path in files]
            missing = (self.spec.count or 0) - sum(rows)
            more = [number for number, quota in enumerate(quotas) if quota == rows[number]]  # these may hold more than was asked of them
            if missing <= 0 or not more:
                break
            for number, extra in zip(more, _even(missing, len(more))):
                quotas[number] = rows[number] + extra
        if not sum(rows):
            raise DataError(f"{self.spec}: no record was found there. Check split and subset.")
        parts = [{"subset": subset, "file": path.name, "records": count} for subset, path, count in zip(subsets, files, rows) if count]
        for unused in {path.name for path in folder.glob("*.arrow")} - {part["file"] for part in parts}:  # of rounds that fell short
            (folder / unused).unlink()
        write_atomic(folder / DRAW, dump_json({**key, "split": self.split, "parts": parts}))

    def drawn(self, folder: Path, subset: str, quota: int | None) -> Path:
        """The file of the records of a subset; drawn now if an interrupted run did not finish it."""
        number = hashlib.sha256(f"{subset} {quota}".encode()).hexdigest()[:12]
        target = folder / f"{_file_name(subset)[:80]}-{number}.arrow"
        if not target.exists():
            self.say(f"{self.spec.name}, {subset}: drawing {'all' if quota is None else f'{quota:,}'} records")
            with hub_errors(Call(self.spec.name, self.commit, self.token, dataset=True)):
                stream = self.stream(subset)
                schema = stream.features.arrow_schema if stream.features else None
                _write_rows(target, _tables_of(islice(self.with_images(stream), quota), schema))
        return target

    def subsets(self) -> list[str]:
        """The subset asked for, or all, in an order drawn with the seed. DataError naming those that exist."""
        known, asked = sorted(_datasets().get_dataset_config_names(**self.source)), self.spec.subset
        if asked is None:
            return Random(f"hf-layerprune/subsets/{self.seed}").sample(known, len(known))
        if asked not in known:
            raise DataError(f"{self.spec.name} has no subset {asked!r}; it has {', '.join(known[:20])}{', …' * (len(known) > 20)}.")
        return [asked]

    def stated_size(self, subset: str) -> int | None:
        """The number of records that a dataset's card states for a subset, None if it states none."""
        info = _datasets().load_dataset_builder(name=subset, **self.source).info
        stated = getattr((info.splits or {}).get(self.split), "num_examples", None)
        return stated if type(stated) is int and stated >= 0 else None

    def stream(self, subset: str) -> Any:
        """The records of a subset in a drawn order, as an IterableDataset with images as they are in the files, undecoded."""
        stream = _datasets().load_dataset(name=subset, split=self.split, streaming=True, **self.source)
        stream = stream.decode(False) if stream.features else stream
        split_up = stream.reshard() if hasattr(stream, "reshard") else stream  # by row groups; older versions go by files
        return split_up.shuffle(seed=self.seed, buffer_size=WINDOW)

    def with_images(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows, with the bytes of images that are files of the same commit beside the table; no other path is followed."""
        from datasets import DownloadConfig
        from datasets.utils.file_utils import xopen

        ours = f"hf://datasets/{self.spec.name}@{self.commit}/"

        def filled(value: Any) -> Any:
            if isinstance(value, list):
                return [filled(item) for item in value]
            if not isinstance(value, dict):
                return value
            path = str(value.get("path"))
            if set(value) == {"bytes", "path"} and value["bytes"] is None and path.rpartition("::")[2].startswith(ours):
                with xopen(path, "rb", download_config=DownloadConfig(token=self.token)) as file:
                    return {"bytes": file.read(MAX_IMAGE_BYTES), "path": path.rpartition("/")[2]}
            return {name: filled(item) for name, item in value.items()}

        return map(filled, rows)


def _quotas(spec: DataSpec, share: Decimal | None, sizes: Sequence[int | None]) -> list[int | None]:
    """How many records to take of each subset, None for all."""
    known = [size for size in sizes if size is not None]
    if share is not None:
        if len(known) < len(sizes):
            raise DataError(f"{spec.name} does not state how many records its subsets hold, so no share can be taken; give a count.")
        return [part_of(share, size) for size in known]
    if spec.count is None:
        return [None] * len(sizes)
    if len(known) < len(sizes) or not sum(known):
        return list(_even(spec.count, len(sizes)))
    ends = [round(Decimal(spec.count) * sum(known[:number]) / sum(known)) for number in range(len(known) + 1)]
    return [end - start for start, end in pairwise(ends)]


def _even(count: int, parts: int) -> list[int]:
    """A count in parts that differ by at most one."""
    return [(number + 1) * count // parts - number * count // parts for number in range(parts)]


def _datasets() -> Any:
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
        schema = _datasets().Features.from_arrow_schema(file.schema_arrow).arrow_schema
        yield schema.empty_table()
        for batch in file.iter_batches(BATCH):
            yield Table.from_batches([batch]).cast(schema)


def _tables_of(rows: Iterable[Mapping[str, Any]], schema: Any) -> Iterator[Any]:
    """Rows as tables of pyarrow, at least one. schema: theirs, or None to infer it from the first rows."""
    from pyarrow import Table

    left = iter(rows)
    first = Table.from_pylist([] if schema is not None else list(islice(left, SAMPLE)), schema=schema)
    yield first
    while batch := list(islice(left, BATCH)):
        yield Table.from_pylist(batch, schema=first.schema)


def _write_rows(target: Path, tables: Iterable[Any]) -> None:
    """Write one or more tables of pyarrow, of the same columns, as they come; the file appears when it is whole."""
    from pyarrow import ipc

    staging, writer = target.with_suffix(".tmp"), None
    for table in tables:
        writer = writer or ipc.new_stream(str(staging), table.schema)
        writer.write_table(table)
    writer.close()  # type: ignore[union-attr]  # there is one table at least
    os.replace(staging, target)


def _read_rows(path: Path) -> Any:
    return _datasets().Dataset.from_file(str(path)).with_format("arrow")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "--", name)
