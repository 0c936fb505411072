"""Datasets on the Hub: draw records from a stream once, keep them as Parquet files of small row groups, and read them from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import digest_of, kept_folder, read_json, write_atomic
from hf_layerprune.data.kept import kept
from hf_layerprune.data.parquet_files import INSTALL, ROW_GROUP, open_parquet, parquet
from hf_layerprune.data.records import JoinedTables, RecordTable
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import DataError
from hf_layerprune.hub.errors import dataset_errors

FORMAT = 1
WINDOW = 1000  # records, out of ten row groups at a time, among which the next one is drawn
MAX_PICTURE_BYTES = 256 << 20


@dataclass(frozen=True)
class _Draw:
    """What decides which records are drawn, and at which commit."""

    spec: DataSpec
    commit: str
    seed: int
    share: Decimal | None
    token: str | bool | None = None
    say: Callable[[str], None] = print

    @property
    def wanted(self) -> dict[str, Any]:
        """All but the commit, as it is kept beside the records."""
        asked = str(replace(self.spec, weight=Decimal(1)))
        return {"format": FORMAT, "spec": asked, "seed": self.seed, "share": None if self.share is None else str(self.share)}

    @property
    def key(self) -> str:
        return f"{_slug(self.spec.name)}-{digest_of({**self.wanted, 'commit': self.commit})[:24]}"


def open_hub_dataset(
    spec: DataSpec,
    *,
    cache: Path | None,
    seed: int,
    share: Decimal | None,
    token: str | bool | None,
    local_files_only: bool,
    say: Callable[[str], None],
) -> RecordTable:
    """The records drawn from a dataset at one commit; drawn now, unless that was done before.

    Of several subsets each gives in proportion to its size where the dataset states sizes, else the same number. Within a subset
    row groups come in a random order and records are drawn from a window of a thousand of them: nearly uniform, and exactly
    so if all are taken. No code of the dataset is run. Raises DataError for what the Hub refuses, or if there are too few.
    """
    from huggingface_hub import HfApi, constants

    parquet()  # what is missing is said before anything is asked of the Hub
    place = cache or kept_folder("data")
    if local_files_only or constants.is_offline_mode():
        return _table(_kept_before(place, _Draw(spec, "", seed, share)), spec)
    with dataset_errors(spec.name, spec.revision, token):
        commit = HfApi().dataset_info(spec.name, revision=spec.revision, token=token).sha
    if commit is None:
        raise DataError(f"{spec.name}: the Hub names no commit for it. Try again later.")
    draw = _Draw(spec, commit, seed, share, token, say)
    return _table(kept(place / draw.key, lambda folder: _fill(folder, draw)), spec)


def _kept_before(place: Path, draw: _Draw) -> Path:
    """The folder of a draw like this one, of the commit drawn last; of the commit asked for, if the spec names one in full, also
    where it was drawn without naming it."""
    unnamed = replace(draw, spec=replace(draw.spec, revision=None)).wanted
    found = sorted(place.glob(f"{_slug(draw.spec.name)}-*/draw.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        record = read_json(path, "record of a draw")
        if draw.wanted.items() <= record.items() or (unnamed.items() <= record.items() and record["commit"] == draw.spec.revision):
            return path.parent
    remedy = "Draw it once online with the same options and seed, without --local-files-only and HF_HUB_OFFLINE."
    raise DataError(f"{draw.spec.name} is not in the cache as asked for. {remedy}")


def _table(folder: Path, spec: DataSpec) -> RecordTable:
    record = read_json(folder / "draw.json", "record of a draw")
    commit, split = record["commit"], record["split"]
    tables: list[RecordTable] = [
        open_parquet(folder / part["file"], origin=f"{spec.name}, {part['subset']}, {split}", revision=commit) for part in record["parts"]
    ]
    name = f"{spec.name}, {spec.subset or 'all subsets'}, {split}"
    return tables[0] if len(tables) == 1 else JoinedTables(name, tables, commit)


def _fill(folder: Path, draw: _Draw) -> None:
    """Draw from every subset into a file of its own; what an interrupted run finished stays."""
    spec, split = draw.spec, draw.spec.split or "train"
    with dataset_errors(spec.name, draw.commit, draw.token):
        subsets = _subsets(draw)
        quotas = _quotas(draw, [_stated_size(draw, subset, split) for subset in subsets])
    while True:
        drawn = [_drawn(folder, draw, subset, quota) for subset, quota in zip(subsets, quotas)]
        rows = [parquet().ParquetFile(path).metadata.num_rows for path in drawn]
        missing = (spec.count or 0) - sum(rows)
        more = [number for number, quota in enumerate(quotas) if quota == rows[number]]  # these may hold more than was asked of them
        if missing <= 0 or not more:
            break
        for number, extra in zip(more, _even(missing, len(more))):
            quotas[number] = rows[number] + extra
    if missing > 0 or not sum(rows):
        remedy = "Leave count out to take them all." if sum(rows) else "Check split and subset."
        raise DataError(f"{spec}: {sum(rows):,} records were found there. {remedy}")
    for unused in {*folder.glob("*.parquet")} - {path for path, count in zip(drawn, rows) if count}:  # of rounds that fell short
        unused.unlink()
    parts = [{"subset": subset, "file": path.name, "records": count} for subset, path, count in zip(subsets, drawn, rows) if count]
    record = {**draw.wanted, "commit": draw.commit, "split": split, "parts": parts}
    write_atomic(folder / "draw.json", json.dumps(record, indent=1).encode())


def _drawn(folder: Path, draw: _Draw, subset: str, quota: int | None) -> Path:
    """The file of the records of a subset; drawn now if an interrupted run did not finish it."""
    target = folder / f"{_slug(subset)[:80]}-{hashlib.sha256(f'{subset} {quota}'.encode()).hexdigest()[:12]}.parquet"
    if not target.exists():
        draw.say(f"{draw.spec.name}, {subset}: drawing {'all' if quota is None else f'{quota:,}'} records")
        with dataset_errors(draw.spec.name, draw.commit, draw.token):
            _write(target, _stream(draw, subset, draw.spec.split or "train"), quota)
    return target


def _quotas(draw: _Draw, sizes: Sequence[int | None]) -> list[int | None]:
    """How many records to take of each subset, None for all."""
    count, known = draw.spec.count, [size for size in sizes if size is not None]
    if draw.share is not None:
        if len(known) < len(sizes):
            raise DataError(f"{draw.spec.name} does not state how many records its subsets hold, so no share can be taken; give a count.")
        return [max(1, int(draw.share * size + Decimal("0.5"))) for size in known]
    if count is None:
        return [None] * len(sizes)
    if len(known) < len(sizes) or not sum(known):
        return list(_even(count, len(sizes)))
    ends = [round(Decimal(count) * sum(known[:number]) / sum(known)) for number in range(len(known) + 1)]
    return [end - start for start, end in pairwise(ends)]


def _even(count: int, parts: int) -> list[int]:
    """A count in parts that differ by at most one."""
    return [(number + 1) * count // parts - number * count // parts for number in range(parts)]


def _subsets(draw: _Draw) -> list[str]:
    """The subset asked for, or all, in an order drawn with the seed. DataError naming those that exist."""
    from random import Random

    known = sorted(_datasets().get_dataset_config_names(draw.spec.name, revision=draw.commit, token=draw.token))
    if draw.spec.subset is None:
        return Random(f"hf-layerprune/subsets/{draw.seed}").sample(known, len(known))
    if draw.spec.subset not in known:
        raise DataError(f"{draw.spec.name} has no subset {draw.spec.subset!r}; it has {', '.join(known[:20])}{', …' * (len(known) > 20)}.")
    return [draw.spec.subset]


def _stated_size(draw: _Draw, subset: str, split: str) -> int | None:
    """The number of records that a dataset's card states for a split of a subset, None if it states none."""
    info = _datasets().load_dataset_builder(draw.spec.name, subset, revision=draw.commit, token=draw.token).info
    stated = (info.splits or {}).get(split)
    return stated.num_examples if stated is not None and type(stated.num_examples) is int and stated.num_examples >= 0 else None


def _stream(draw: _Draw, subset: str, split: str) -> _Stream:
    """The records of a subset in a drawn order, with pictures as they stand in the files, undecoded."""
    stream = _datasets().load_dataset(draw.spec.name, subset, split=split, revision=draw.commit, token=draw.token, streaming=True)
    stream = stream.decode(False) if stream.features else stream
    split_up = stream.reshard() if hasattr(stream, "reshard") else stream  # by row groups; older versions go by files
    return _Stream(split_up.shuffle(seed=draw.seed, buffer_size=WINDOW), stream.features, draw)


class _Stream:
    """Rows of a stream, with the bytes of pictures that lie beside the table in the same commit."""

    def __init__(self, rows: Any, features: Any, draw: _Draw) -> None:
        self._rows, self.features, self._draw = rows, features, draw
        self._base = f"hf://datasets/{draw.spec.name}@{draw.commit}/"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            yield {name: self._filled(value) for name, value in row.items()}

    def _filled(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"bytes", "path"} and value["bytes"] is None and self._ours(value["path"]):
            return {"bytes": self._read(value["path"]), "path": value["path"].rpartition("/")[2]}
        return {name: self._filled(item) for name, item in value.items()}

    def _ours(self, path: object) -> bool:
        return isinstance(path, str) and path.rpartition("::")[2].startswith(self._base)

    def _read(self, path: str) -> bytes:
        from datasets import DownloadConfig
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb", download_config=DownloadConfig(token=self._draw.token)) as file:
            return bytes(file.read(MAX_PICTURE_BYTES))


def _write(target: Path, stream: _Stream, wanted: int | None) -> None:
    """Write rows as they come, a small row group at a time; the file appears when it is whole."""
    import pyarrow

    rows, schema = islice(stream, wanted), stream.features.arrow_schema if stream.features else None
    staging, writer = target.with_suffix(".tmp"), None
    while (batch := list(islice(rows, ROW_GROUP if schema is not None else WINDOW))) or writer is None:
        table = pyarrow.Table.from_pylist(batch, schema=schema)
        schema = table.schema
        writer = writer or parquet().ParquetWriter(staging, schema, compression="NONE")
        writer.write_table(table, row_group_size=ROW_GROUP)
        if not batch:
            break
    writer.close()
    os.replace(staging, target)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"datasets of the Hub need the package datasets: {INSTALL}.") from error
    return datasets


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]", "--", name)
