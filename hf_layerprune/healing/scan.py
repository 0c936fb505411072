"""One pass over the records of a source before training: which can be used, and how long they are.

So the number of steps is known beforehand, the same on every rank, and a bad record stops nobody at step 900. What was looked at
is kept: a pass that was interrupted goes on, a finished one is not repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from hf_layerprune.data.image_files import BadRecord
from hf_layerprune.data.limits import percent
from hf_layerprune.data.records import RecordTable
from hf_layerprune.errors import DataError, LayerPruneError
from hf_layerprune.healing.conversations import Conversation, conversation
from hf_layerprune.healing.encoding import ChatEncoder, EncodedSample, TooLong
from hf_layerprune.healing.filters import NO_FILTERS, Filters
from hf_layerprune.healing.rendered_math import RenderedMath

UNSEEN, BAD, TOO_LONG, LEFT_OUT = 0, -1, -2, -3  # marks in place of a length
CHUNK = 64  # records that a worker looks at before it reports
WORTH_WORKERS = 1024  # records below which processes cost more than they save
LISTED = 100


class LeftOut(BadRecord):
    """A record that was asked to be left out; not counted as bad."""


@dataclass(frozen=True)
class Source:
    """A table read as samples. It can be pickled, and nothing that was decoded stays in it."""

    table: RecordTable
    encoder: ChatEncoder
    filters: Filters = NO_FILTERS
    rendering: RenderedMath | None = None

    def conversation(self, index: int) -> Conversation:
        """A record as a conversation; BadRecord if it is none, LeftOut if a filter or exclusion says so."""
        record = self.table.record(index)
        if self.rendering and self.rendering.applies(record):
            if reason := self.rendering.reason_against(record):
                raise LeftOut(reason)
            record = self.rendering.rendered(record)
        found = conversation(record)
        if reason := self.filters.reason_against(found):
            raise LeftOut(reason)
        return found

    def sample(self, index: int) -> EncodedSample:
        """The tensors of a record, as ChatEncoder.encode makes them; raises as it does."""
        return self.encoder.encode(self.conversation(index))

    def look(self, index: int) -> tuple[int, bool, str]:
        """The length of a record in tokens, or the mark that stands for why it cannot be used; whether it is scaled; the reason."""
        try:
            return (*self.encoder.measure(self.conversation(index)), "")
        except BadRecord as bad:
            kind = TOO_LONG if isinstance(bad, TooLong) else LEFT_OUT if isinstance(bad, LeftOut) else BAD
            return kind, False, str(bad)


@dataclass(frozen=True)
class Scan:
    """What a pass found. lengths: of each record in tokens, or its mark; scaled: whether its pictures are scaled down; reasons: for
    the first hundred that are bad or too long."""

    lengths: Int[np.ndarray, "record"]
    scaled: Int[np.ndarray, "record"]
    reasons: tuple[str, ...]

    def count(self, mark: int) -> int:
        return int((self.lengths == mark).sum())

    @cached_property
    def usable(self) -> Int[np.ndarray, "record"]:
        """The numbers of the records that can be used."""
        return np.flatnonzero(self.lengths > 0)


def read_scan(folder: Path) -> Scan:
    """The scan that a folder keeps; DataError if it is damaged."""
    try:
        lengths, scaled = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("lengths", "scaled"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged; remove that folder and run again.") from error
    reasons = [reason for row, reason in _reasons(folder).items() if lengths[row] in (BAD, TOO_LONG)]  # some were mended since
    return Scan(lengths, scaled, tuple(reasons[:LISTED]))


def scan(folder: Path, source: Source, max_bad: Decimal, workers: int | None, done: Callable[[int], None]) -> None:
    """Look at all records that were not looked at in `folder` yet, and keep there what is found.

    done: told how many have been. DataError if more than `max_bad` of the records are bad; these are looked at again next time.
    """
    lengths, scaled = (_array(folder / f"{name}.npy", len(source.table), kind) for name, kind in _ARRAYS)
    starts = [start for start in range(0, len(lengths), CHUNK) if (lengths[start : start + CHUNK] == UNSEEN).any()]
    for chunk in _looked(source, starts, workers):
        full = (lengths == TOO_LONG).sum() >= LISTED  # there may be a million of these, and only so many bad ones
        _note(folder, [item for item in chunk.reasons if not full or chunk.lengths[item[0] - chunk.start] == BAD])  # before the marks
        rows = slice(chunk.start, chunk.start + len(chunk.lengths))
        lengths[rows], scaled[rows] = chunk.lengths, chunk.scaled
        done(int((lengths != UNSEEN).sum()))
        _refuse_beyond(folder, source, lengths, max_bad)
    _refuse_beyond(folder, source, lengths, max_bad)
    lengths.flush()
    scaled.flush()


@dataclass(frozen=True)
class _Chunk:
    start: int
    lengths: list[int]
    scaled: list[bool]
    reasons: list[tuple[int, str]]
    error: str = ""  # what is wrong with the source as a whole


class _Chunks(Dataset[_Chunk]):
    """The parts of a source that are still to be looked at, for DataLoader's workers."""

    def __init__(self, source: Source, starts: Sequence[int]) -> None:
        self._source, self._starts = source, starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> _Chunk:
        start = self._starts[number]
        rows = range(start, min(start + CHUNK, len(self._source.table)))
        try:
            found = [self._source.look(row) for row in rows]
        except LayerPruneError as error:
            return _Chunk(start, [], [], [], str(error))
        reasons = [(row, reason) for row, (mark, _, reason) in zip(rows, found) if mark in (BAD, TOO_LONG)]
        return _Chunk(start, [mark for mark, _, _ in found], [small for _, small, _ in found], reasons)


def _looked(source: Source, starts: Sequence[int], workers: int | None) -> Iterator[_Chunk]:
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 16) if len(starts) * CHUNK >= WORTH_WORKERS else 0
    whole: Any = _as_it_is  # the type that torch gives a collate_fn fits batches only
    loader = DataLoader(_Chunks(source, starts), batch_size=None, collate_fn=whole, num_workers=workers, worker_init_fn=_begin)
    try:
        for chunk in loader:
            if chunk.error:
                raise DataError(chunk.error)
            yield chunk
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"{source.table.origin}: a process that read it died, perhaps for want of memory. Run again, with fewer."
        ) from error


def _as_it_is(chunk: _Chunk) -> _Chunk:
    return chunk


def _begin(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # in this worker alone: it is one of many, and forked


def _refuse_beyond(folder: Path, source: Source, lengths: Any, max_bad: Decimal) -> None:
    bad, allowed = int((lengths == BAD).sum()), int(max_bad * len(lengths))
    if bad <= allowed:
        return
    reasons = [_reasons(folder).get(int(row), "") for row in np.flatnonzero(lengths == BAD)[:3]]
    lengths[lengths == BAD] = UNSEEN  # the person may mend pictures that the table's digest does not cover
    lengths.flush()
    raise DataError(
        f"{'; '.join(reasons)}. That makes {bad} bad of {len(lengths):,} records of {source.table.origin}, more than the {allowed} that "
        f"--max-bad {percent(max_bad)} allows. Mend or remove them, or raise --max-bad."
    )


_ARRAYS = (("lengths", np.int32), ("scaled", np.bool_))


def _array(path: Path, length: int, kind: Any) -> Any:
    """A file of numbers, as an interrupted pass left it, or new."""
    with suppress(OSError, ValueError):
        found = np.lib.format.open_memmap(path, mode="r+")
        if found.shape == (length,) and found.dtype == kind:
            return found
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(length,))


def _note(folder: Path, reasons: Sequence[tuple[int, str]]) -> None:
    with (folder / "reasons.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(reason) + "\n" for reason in reasons)


def _reasons(folder: Path) -> dict[int, str]:
    """The reasons by the number of their record, the newest of each."""
    found: dict[int, str] = {}
    with suppress(FileNotFoundError), (folder / "reasons.jsonl").open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):  # the last line of a run that was killed
                row, reason = json.loads(line)
                found[int(row)] = str(reason)
    return dict(sorted(found.items()))
