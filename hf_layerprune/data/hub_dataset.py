"""Datasets on the Hub: draw records from a stream once, keep them as Arrow files, and read them from there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

from hf_layerprune.artifacts.jsonfile import dump_json, kept_folder, read_json, write_atomic
from hf_layerprune.data.dataset_tables import file_digest, import_datasets, open_rows, tables_of, write_rows
from hf_layerprune.data.records import JoinedTables, RecordTable, part_of
from hf_layerprune.data.store import Entry
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import DataError
from hf_layerprune.hub.errors import dataset_errors

FORMAT = 2
DRAW = "draw.json"  # what was drawn, beside the files of rows
WINDOW = 1000  # records, out of ten row groups at a time, among which the next one is drawn
MAX_IMAGE_BYTES = 256 << 20


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
        """All but revision and commit, as it is recorded beside the records."""
        asked = str(replace(self.spec, weight=Decimal(1), revision=None))
        return {"format": FORMAT, "spec": asked, "seed": self.seed, "share": None if self.share is None else str(self.share)}

    @property
    def split(self) -> str:
        return self.spec.split or "train"

    @property
    def key(self) -> dict[str, Any]:
        return {**self.wanted, "revision": self.spec.revision, "commit": self.commit}


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

    import_datasets()  # what is missing is said before anything is asked of the Hub
    place = cache or kept_folder("data")
    if local_files_only or constants.is_offline_mode():
        return _table(_drawn_before(place, _Draw(spec, "", seed, share)), spec)
    with dataset_errors(spec.name, spec.revision, token):
        commit = HfApi().dataset_info(spec.name, revision=spec.revision, token=token).sha
    if commit is None:
        raise DataError(f"{spec.name}: the Hub names no commit for it. Try again later.")
    draw = _Draw(spec, commit, seed, share, token, say)
    entry = Entry.of(place, draw.key, prefix=f"{_file_name(spec.name)}-")
    return _table(entry.build(lambda folder: _fill(folder, draw)), spec)


def _drawn_before(place: Path, draw: _Draw) -> Path:
    """The folder of the newest draw like this one, of the revision that the spec names, be it by its commit."""
    found = sorted(place.glob(f"{_file_name(draw.spec.name)}-*/{DRAW}"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        record = read_json(path, "record of a draw")
        if draw.wanted.items() <= record.items() and draw.spec.revision in (record["revision"], record["commit"]):
            return path.parent
    remedy = "Draw it once online with the same options and seed, without --local-files-only and HF_HUB_OFFLINE."
    raise DataError(f"{draw.spec.name} is not in the cache as asked for. {remedy}")


def _table(folder: Path, spec: DataSpec) -> RecordTable:
    record = read_json(folder / DRAW, "record of a draw")
    commit, split = record["commit"], record["split"]
    tables: list[RecordTable] = []
    for part in record["parts"]:
        path = folder / part["file"]
        tables.append(open_rows(path, file_digest(path), f"{spec.name}, {part['subset']}, {split}", commit))
    name = f"{spec.name}, {spec.subset or 'all subsets'}, {split}"
    return tables[0] if len(tables) == 1 else JoinedTables(name, tables, commit)


def _fill(folder: Path, draw: _Draw) -> None:
    """Draw from every subset into a file of its own; what an interrupted run finished stays."""
    with dataset_errors(draw.spec.name, draw.commit, draw.token):
        subsets = _subsets(draw)
        quotas = _quotas(draw, [_stated_size(draw, subset) for subset in subsets])
    while True:
        files = [_drawn(folder, draw, subset, quota) for subset, quota in zip(subsets, quotas)]
        rows = [len(open_rows(path, "", "")) for path in files]
        missing = (draw.spec.count or 0) - sum(rows)
        more = [number for number, quota in enumerate(quotas) if quota == rows[number]]  # these may hold more than was asked of them
        if missing <= 0 or not more:
            break
        for number, extra in zip(more, _even(missing, len(more))):
            quotas[number] = rows[number] + extra
    if missing > 0 or not sum(rows):
        remedy = "Leave count out to take them all." if sum(rows) else "Check split and subset."
        raise DataError(f"{draw.spec}: {sum(rows):,} records were found there. {remedy}")
    parts = [{"subset": subset, "file": path.name, "records": count} for subset, path, count in zip(subsets, files, rows) if count]
    for unused in {path.name for path in folder.glob("*.arrow")} - {part["file"] for part in parts}:  # of rounds that fell short
        (folder / unused).unlink()
    write_atomic(folder / DRAW, dump_json({**draw.key, "split": draw.split, "parts": parts}))


def _drawn(folder: Path, draw: _Draw, subset: str, quota: int | None) -> Path:
    """The file of the records of a subset; drawn now if an interrupted run did not finish it."""
    number = hashlib.sha256(f"{subset} {quota}".encode()).hexdigest()[:12]
    target = folder / f"{_file_name(subset)[:80]}-{number}.arrow"
    if not target.exists():
        draw.say(f"{draw.spec.name}, {subset}: drawing {'all' if quota is None else f'{quota:,}'} records")
        with dataset_errors(draw.spec.name, draw.commit, draw.token):
            stream = _stream(draw, subset)
            schema = stream.features.arrow_schema if stream.features else None
            write_rows(target, tables_of(islice(_with_images(stream, draw), quota), schema))
    return target


def _quotas(draw: _Draw, sizes: Sequence[int | None]) -> list[int | None]:
    """How many records to take of each subset, None for all."""
    count, known = draw.spec.count, [size for size in sizes if size is not None]
    if draw.share is not None:
        if len(known) < len(sizes):
            raise DataError(f"{draw.spec.name} does not state how many records its subsets hold, so no share can be taken; give a count.")
        return [part_of(draw.share, size) for size in known]
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
    known = sorted(import_datasets().get_dataset_config_names(draw.spec.name, revision=draw.commit, token=draw.token))
    if draw.spec.subset is None:
        return Random(f"hf-layerprune/subsets/{draw.seed}").sample(known, len(known))
    if draw.spec.subset not in known:
        raise DataError(f"{draw.spec.name} has no subset {draw.spec.subset!r}; it has {', '.join(known[:20])}{', …' * (len(known) > 20)}.")
    return [draw.spec.subset]


def _stated_size(draw: _Draw, subset: str) -> int | None:
    """The number of records that a dataset's card states for a subset, None if it states none."""
    info = import_datasets().load_dataset_builder(draw.spec.name, subset, revision=draw.commit, token=draw.token).info
    stated = (info.splits or {}).get(draw.split)
    return stated.num_examples if stated is not None and type(stated.num_examples) is int and stated.num_examples >= 0 else None


def _stream(draw: _Draw, subset: str) -> Any:
    """The records of a subset in a drawn order, as an IterableDataset with images as they are in the files, undecoded."""
    load, spec = import_datasets().load_dataset, draw.spec
    stream = load(spec.name, subset, split=draw.split, revision=draw.commit, token=draw.token, streaming=True)
    stream = stream.decode(False) if stream.features else stream
    split_up = stream.reshard() if hasattr(stream, "reshard") else stream  # by row groups; older versions go by files
    return split_up.shuffle(seed=draw.seed, buffer_size=WINDOW)


def _with_images(rows: Any, draw: _Draw) -> Iterator[dict[str, Any]]:
    """The rows, with the bytes of images that are files of the same commit beside the table; no other path is followed."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    ours = f"hf://datasets/{draw.spec.name}@{draw.commit}/"

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        path = str(value.get("path"))
        if set(value) == {"bytes", "path"} and value["bytes"] is None and path.rpartition("::")[2].startswith(ours):
            with xopen(path, "rb", download_config=DownloadConfig(token=draw.token)) as file:
                return {"bytes": file.read(MAX_IMAGE_BYTES), "path": path.rpartition("/")[2]}
        return {name: filled(item) for name, item in value.items()}

    return map(filled, rows)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "--", name)
