"""Open what a spec names: a file or folder of records, a dataset on the Hub, or the built-in mini."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from hf_layerprune.artifacts.model_facts import is_hub_id
from hf_layerprune.data.dataset_tables import open_parquet
from hf_layerprune.data.json_files import open_json
from hf_layerprune.data.mini_records import mini_records
from hf_layerprune.data.records import DrawnTable, JoinedTables, Record, RecordTable, part_of
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import DataError, UsageError, shown

__all__ = ["DataSpec", "Record", "RecordTable", "open_table"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


def open_table(
    spec: DataSpec,
    *,
    cache: Path | None = None,
    seed: int = 0,
    share: Decimal | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> RecordTable:
    """The records that a spec names: the word `mini` (`./mini` is a folder), else a path if it exists, else an id on the Hub.

    cache: where records from the Hub and rows of Parquet files are kept (huggingface_hub's cache of what libraries derive, if None)
    seed: of what is drawn
    share: take that share of each file or subset, uniformly, at least one record (INTERLACE's 1 %), instead of a count
    say: told what takes long

    Relative paths of images in a file's records begin in the file's own folder.

    Raises UsageError for a spec that its source cannot honour, DataError if there is nothing, or fewer records than its count.
    """
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"share {share}: expected a share above 0, at most 1.")
    if share is not None and spec.count is not None:
        raise UsageError(f"{spec}: a count and a share of each subset cannot both be taken; leave one out.")
    path = Path(spec.name)
    if spec.name == "mini":  # also where a folder is called so: it is the default, and must not change with the place
        return _of_mini(spec, seed, share)
    if len(spec.name) < 4096 and os.path.lexists(path):
        return _of_files(path, spec, seed, share, lambda file: _open_file(file, cache, say))
    if not is_hub_id(spec.name):
        raise DataError(f"{shown(spec.name)} is neither a file or folder, nor 'mini', nor a dataset's id (owner/name). Check the spelling.")
    from hf_layerprune.data.hub_dataset import open_hub_dataset

    return open_hub_dataset(spec, cache=cache, seed=seed, share=share, token=token, local_files_only=local_files_only, say=say)


def _of_mini(spec: DataSpec, seed: int, share: Decimal | None) -> RecordTable:
    for key in ("split", "revision"):
        if getattr(spec, key) is not None:
            raise UsageError(f"{spec}: mini has no {key}; its records are those drawn for healing. Leave {key} out.")
    table = mini_records(spec.subset, spec.count, seed)
    return table if share is None else replace(table, count=part_of(share, len(table)))


def _of_files(path: Path, spec: DataSpec, seed: int, share: Decimal | None, open_file: Callable[[Path], RecordTable]) -> RecordTable:
    for key in ("split", "revision"):
        if getattr(spec, key) is not None:
            raise UsageError(f"{spec}: only a dataset on the Hub has a {key}. Leave it out, or name the file itself.")
    tables = [open_file(file) for file in _record_files(path, spec)]
    if share is not None:
        tables = [DrawnTable(table, part_of(share, len(table)), seed) for table in tables]
    name = (path.name or path.resolve().name) + (f", {spec.subset}" if spec.subset else "")
    table = tables[0] if path.is_file() else JoinedTables(name, tables)
    if spec.count is None or spec.count == len(table):
        return table
    if spec.count > len(table):
        raise DataError(f"{path}: {len(table):,} records, fewer than count={spec.count}. Leave count out to take them all.")
    return DrawnTable(table, spec.count, seed)


def _record_files(path: Path, spec: DataSpec) -> Iterator[Path]:
    if path.is_dir():
        root = _subfolder(path, spec)
        found = sorted(Path(folder, name) for folder, _, names in _walk(root) for name in names if Path(name).suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{root}: no {', '.join(SUFFIXES)} file in that folder.")
        yield from found
    elif spec.subset is not None:
        raise UsageError(f"{spec}: a single file has no subset. Leave it out.")
    else:
        yield path


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot list the folder: {error.strerror}.") from error

    return os.walk(root, onerror=refuse)  # does not follow links to folders


def _subfolder(path: Path, spec: DataSpec) -> Path:
    if spec.subset is None:
        return path
    inner = path / spec.subset
    if not inner.is_dir() or not Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(path)):
        raise DataError(f"{spec}: no folder {shown(spec.subset)} inside {path}; a folder's subsets are its subfolders.")
    return inner


def _open_file(path: Path, cache: Path | None, say: Callable[[str], None]) -> RecordTable:
    if not path.is_file():
        raise DataError(f"{path}: not a regular file, or a link to nothing. Pass a file of records, or a folder of them.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: no file of records; expected {', '.join(SUFFIXES)}, or a folder of such files.")
    return open_parquet(path, cache, say) if suffix == ".parquet" else open_json(path)
