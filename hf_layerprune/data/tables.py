"""Name a source of records on one line, and open it: a file, a folder, a dataset on the Hub, or the built-in mini."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.model_facts import hub_name, is_hub_id
from hf_layerprune.artifacts.prompts import prompts, subtasks
from hf_layerprune.data.dataset_tables import Say, open_hub_dataset, open_parquet
from hf_layerprune.data.json_files import open_json
from hf_layerprune.data.records import Record, RecordTable, check_index, drawn, joined, part_of
from hf_layerprune.errors import DataError, UsageError, shown
from hf_layerprune.mini.generator import GENERATOR_VERSION, MINI_PIXELS, draw_example
from hf_layerprune.registry import did_you_mean

KEYS = ("subset", "split", "count", "weight", "revision")
EXAMPLE = "questions.jsonl,count=1000 or lmms-lab/LLaVA-OneVision-Data,subset=CLEVR-Math(MathV360K),weight=0.5"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
MINI_COUNT = 4096


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
        name = shown(self.name)
        if not self.name.strip() or "\0" in self.name:
            raise UsageError(f"the data source {name} has no name; expected for example {EXAMPLE}.")
        for key in ("subset", "split", "revision"):
            if (value := getattr(self, key)) is not None and (not value.strip() or "\0" in value):
                raise UsageError(f"{name}: {key}={value} is empty; leave it out, or give a name.")
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise UsageError(f"{name}: count={self.count}: expected a whole number of records, at least 1.")
        if not (isinstance(self.weight, Decimal) and self.weight.is_finite() and 0 < self.weight <= 1000):
            raise UsageError(f"{name}: weight={self.weight}: expected a number above 0, at most 1000, such as 2 or 0.5.")

    @classmethod
    def parse(cls, text: str) -> DataSpec:
        """Read `NAME_OR_PATH,subset=...,split=...,count=...,weight=...,revision=...`; a comma in a name or value is written twice.

        UsageError naming the key that is wrong.
        """
        name, *options = (part.replace(",,", ",") for part in re.findall(r"(?:^|,)((?:[^,]|,,)*)", text))
        found: dict[str, Any] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key not in KEYS or not equals:
                wrong = f"no key {shown(key)}. {did_you_mean(key, KEYS)}" if equals else f"{shown(key)} is not key=value. "
                raise UsageError(f"{shown(text)}: {wrong}Known: {', '.join(KEYS)}. A comma that belongs to a name is written twice.")
            if key in found:
                raise UsageError(f"{shown(text)}: {key} is given twice.")
            found[key] = value
        for key, kind, expected in (("count", int, "a whole number"), ("weight", Decimal, "a number")):
            if key in found:
                try:
                    found[key] = kind(found[key] if found[key].isascii() else "")
                except (ValueError, InvalidOperation):
                    raise UsageError(f"{shown(text)}: {key}={found[key]}: expected {expected}.") from None
        return cls._named(name, found)

    @classmethod
    def _named(cls, name: str, found: Mapping[str, Any]) -> DataSpec:
        """A spec whose name may be the address of a dataset on the Hub, which may name a revision."""
        repo = None if _is_here(name) else hub_name(name)
        if repo is None or repo.id == name:
            return cls(name, **found)
        if repo.kind not in (None, "dataset"):
            raise UsageError(f"{shown(name)} is the address of a {repo.kind}; a dataset's is https://huggingface.co/datasets/OWNER/NAME.")
        if repo.revision and found.get("revision", repo.revision) != repo.revision:
            raise UsageError(f"{shown(name)} names a revision, and revision={found['revision']} names another: give one of them.")
        return cls(repo.id, **{**found, **({"revision": repo.revision} if repo.revision else {})})

    def as_recorded(self, commit: str | None) -> DataSpec:
        """The same source as a published record names it: a dataset on the Hub pinned to its commit, a file or folder (commit is
        None) by its last name alone, for where it lay is nobody's business."""
        if commit is not None:
            return replace(self, revision=commit)
        last = Path(os.path.abspath(self.name)).name
        return replace(self, name=last if last.strip() else self.name)

    def __str__(self) -> str:
        """The line that parses to this value."""
        given = {key: value for key in KEYS if (value := getattr(self, key)) is not None and (key, value) != ("weight", 1)}
        return ",".join(part.replace(",", ",,") for part in (self.name, *(f"{key}={value}" for key, value in given.items())))


def open_table(
    spec: DataSpec,
    *,
    cache: Path | None = None,
    seed: int = 0,
    share: Decimal | None = None,
    at_most: int | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    say: Say = lambda line: None,
) -> RecordTable:
    """The records that a spec names: the word `mini` (`./mini` is a folder), else a path if it exists, else an id on the Hub.

    cache: where records from the Hub and rows of Parquet files are kept (huggingface_hub's cache of what libraries derive, if None)
    seed: of what is drawn
    share: take that share of each file or subset, uniformly, at least one record (INTERLACE's 1 %), instead of a count
    at_most: draw no more than so many of a dataset on the Hub, or all if it has fewer; what lies on disk is given whole
    say: told what takes long

    Relative paths of images in a file's records begin in the file's own folder.

    Raises UsageError for a spec that its source cannot honour, DataError if there is nothing, or fewer records than its count.
    """
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"share {share}: expected a share above 0, at most 1.")
    if share is not None and spec.count is not None:
        raise UsageError(f"{spec}: a count and a share of each subset cannot both be taken; leave one out.")
    check_source(spec)
    if spec.name == "mini":  # also where a folder is called so: it is the default, and must not change with the place
        return _mini(spec, seed, share)
    if _is_here(spec.name):
        tables = [_open_file(file, cache, say) for file in _record_files(Path(spec.name), spec)]
        return _files(tables, spec, seed, share)
    few = at_most is not None and share is None and spec.count is None
    wanted = replace(spec, count=at_most) if few else spec
    return open_hub_dataset(wanted, cache, seed, share, token, local_files_only, say, allow_fewer=few)


def check_source(spec: DataSpec) -> None:
    """Refuse, as `open_table` does, a source that is missing here or cannot be one, without reading a record or asking the Hub."""
    here = _is_here(spec.name)
    for key in ("split", "revision"):
        if getattr(spec, key) is not None and (spec.name == "mini" or here):
            raise UsageError(f"{spec}: only a dataset on the Hub has a {key}. Leave it out, or name the file itself.")
    if spec.name == "mini":
        return
    if here:
        for file in _record_files(Path(spec.name), spec):
            _check_file(file)
    elif not is_hub_id(spec.name):
        raise DataError(f"{shown(spec.name)} is neither a file or folder, nor 'mini', nor a dataset's id (owner/name). Check the spelling.")


def _is_here(name: str) -> bool:
    return len(name) < 4096 and os.path.lexists(name)


@dataclass(frozen=True)
class MiniTable(RecordTable):
    """Examples of mini's split `heal`, the subtasks by turns; fields: image, question, answer and subtask."""

    tasks: tuple[str, ...]
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        turn, task = divmod(check_index(index, self.count), len(self.tasks))
        name = self.tasks[task]
        example = draw_example(name, "heal", turn, seed=self.seed)
        fields = {"image": example.image, "question": example.question, "answer": example.answer, "subtask": name}
        return Record(f"mini, {name} {turn}", fields, None)


def _mini(spec: DataSpec, seed: int, share: Decimal | None) -> MiniTable:
    """All nine subtasks, or those of a domain, or one."""
    every = tuple(name for domain in prompts() for name in subtasks(domain))
    known = {name: (name,) for name in every} | {domain: subtasks(domain) for domain in prompts()}
    if spec.subset is not None and spec.subset not in known:
        raise UsageError(f"mini has no subset {spec.subset!r}; it has {', '.join(prompts())} and {', '.join(every)}.")
    tasks, count = known.get(spec.subset or "", every), spec.count or MINI_COUNT
    count = count if share is None else part_of(share, count)
    digest = hashlib.sha256(f"mini {GENERATOR_VERSION} heal {MINI_PIXELS} {seed} {count} {tasks}".encode()).hexdigest()
    return MiniTable("mini" if spec.subset is None else f"mini, {spec.subset}", digest, None, tasks, count, seed)


def _files(tables: Sequence[RecordTable], spec: DataSpec, seed: int, share: Decimal | None) -> RecordTable:
    """The records of a file, or of a folder's files in their order, and of them the share or count that is asked for."""
    if share is not None:
        tables = [drawn(table, part_of(share, len(table)), seed) for table in tables]
    path = Path(spec.name)
    name = (path.name or path.resolve().name) + (f", {spec.subset}" if spec.subset else "")
    table = joined(name, tables) if path.is_dir() else tables[0]
    if spec.count is None or spec.count == len(table):
        return table
    if spec.count > len(table):
        raise DataError(f"{path}: {len(table):,} records, fewer than count={spec.count}. Leave count out to take them all.")
    return drawn(table, spec.count, seed)


def _record_files(path: Path, spec: DataSpec) -> list[Path]:
    """The file itself, or the files of records below a folder by path; links to folders are not followed."""
    if not path.is_dir():
        if spec.subset is not None:
            raise UsageError(f"{spec}: a single file has no subset. Leave it out.")
        return [path]
    root = path / (spec.subset or "")
    if not root.is_dir() or not Path(os.path.realpath(root)).is_relative_to(os.path.realpath(path)):
        raise DataError(f"{spec}: no folder {shown(spec.subset)} inside {path}; a folder's subsets are its subfolders.")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot list the folder: {error.strerror}.") from error

    walk = os.walk(root, onerror=refuse)
    found = sorted(Path(folder, name) for folder, _, names in walk for name in names if Path(name).suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{root}: no {', '.join(SUFFIXES)} file in that folder.")
    return found


def _open_file(path: Path, cache: Path | None, say: Say) -> RecordTable:
    return open_parquet(path, cache, say) if path.suffix.lower() == ".parquet" else open_json(path)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: not a regular file, or a link to nothing. Pass a file of records, or a folder of them.")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: not a file of records; expected {', '.join(SUFFIXES)}, or a folder of such files.")
