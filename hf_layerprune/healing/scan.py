"""One pass over the records of a source before training: which can be used, and how long they are.

So the number of steps is known beforehand, the same on every rank, and an unusable record stops nobody at step 900. What was looked at
is kept: a pass that was interrupted goes on, a finished one is not repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from torch.utils.data import DataLoader, Dataset

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.data.records import LISTED, RecordTable, Tolerance, UnusableRecord
from hf_layerprune.data.store import Entry
from hf_layerprune.errors import DataError, LayerPruneError
from hf_layerprune.healing.conversations import NO_FILTERS, Conversation, Filters, conversation
from hf_layerprune.healing.encoding import ChatEncoder, EncodedSample, TooLong
from hf_layerprune.healing.rendered_math import RenderedMath

FORMAT = 1  # of what decides a scan; part of the key
UNSEEN, BAD, TOO_LONG, LEFT_OUT = 0, -1, -2, -3  # marks in place of a length
CHUNK = 64  # records that a worker looks at before it reports
WORTH_WORKERS = 1024  # records below which processes cost more than they save
Look = tuple[int, bool, str]  # length in tokens or a mark, whether images are scaled down, the reason if it cannot be used


class LeftOut(UnusableRecord):
    """A record that was asked to be left out; not counted as unusable."""


@dataclass(frozen=True)
class Source:
    """A table read as samples. It can be pickled, and nothing that was decoded stays in it."""

    table: RecordTable
    encoder: ChatEncoder
    filters: Filters = NO_FILTERS
    rendering: RenderedMath | None = None

    @property
    def limits(self) -> dict[str, str | None]:
        """The filters' limits by name, for the record."""
        return {name: None if value is None else str(value) for name, value in asdict(self.filters).items()}

    @property
    def key(self) -> str:
        """sha256 of what decides a scan."""
        rendering = self.rendering.digest if self.rendering else None
        return digest_of([FORMAT, self.table.digest, self.encoder.fingerprint, self.limits, rendering])

    def conversation(self, index: int) -> Conversation:
        """A record as a conversation; UnusableRecord if it cannot be used, LeftOut if a filter or exclusion says so."""
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

    def look(self, index: int) -> Look:
        """What a scan says of a record; DataError or ModelError for what is wrong with all of them."""
        try:
            return (*self.encoder.measure(self.conversation(index)), "")
        except UnusableRecord as bad:
            kind = TOO_LONG if isinstance(bad, TooLong) else LEFT_OUT if isinstance(bad, LeftOut) else BAD
            return kind, False, str(bad)


class Scan:
    """What is known of each record of a source, kept as lines of JSON: the rows of a chunk, their lengths, scaled, and reasons."""

    def __init__(self, path: Path, records: int) -> None:
        """Read what an earlier pass left at `path`, if it left anything."""
        self.path = path
        self.lengths: Int[np.ndarray, "record"] = np.full(records, UNSEEN, np.int32)  # in tokens, or a mark
        self.scaled: Bool[np.ndarray, "record"] = np.zeros(records, bool)  # whether its images are scaled down
        self._reasons: dict[int, str] = {}
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError, IndexError, OverflowError):  # the last line of a run that was killed
                    self._take(*json.loads(line))

    @property
    def usable(self) -> Int[np.ndarray, "record"]:
        """The numbers of the records that can be used."""
        return np.flatnonzero(self.lengths > 0)

    @property
    def reasons(self) -> list[str]:
        """Why records cannot be used: of the first hundred that are unusable or too long."""
        return [self._reasons[row] for row in sorted(self._reasons)[:LISTED]]

    def count(self, mark: int) -> int:
        return int((self.lengths == mark).sum())

    def run(self, source: Source, max_bad: Decimal, workers: int | None, done: Callable[[int], None]) -> None:
        """Look at all records that were not looked at yet, and again at the unusable ones: a person may have mended their images.

        done: told how many were looked at. DataError once more than `max_bad` of all records are unusable.
        """
        rows = np.flatnonzero((self.lengths == UNSEEN) | (self.lengths == BAD))
        self.lengths[rows] = UNSEEN
        chunks = [rows[start : start + CHUNK].tolist() for start in range(0, len(rows), CHUNK)]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n")  # ends what a killed run left of a line
            for chunk, looks in zip(chunks, _looks(source, chunks, workers), strict=True):
                few = self.count(TOO_LONG) < LISTED  # there may be a million of these, and only so many unusable ones
                told = {row: look[2] for row, look in zip(chunk, looks) if look[0] == BAD or (few and look[0] == TOO_LONG)}
                line = [chunk, [look[0] for look in looks], [look[1] for look in looks], list(told.items())]
                file.write(json.dumps(line) + "\n")
                file.flush()
                self._take(*line)
                done(len(self.lengths) - self.count(UNSEEN))
                self.refuse_beyond(max_bad, source.table.origin)
            os.fsync(file.fileno())

    def refuse_beyond(self, max_bad: Decimal, origin: str) -> None:
        """DataError if more than that share of the records are unusable."""
        reasons = [self._reasons.get(int(row), "") for row in np.flatnonzero(self.lengths == BAD)[:3]]
        Tolerance(max_bad).check(self.count(BAD), len(self.lengths), f"records of {origin}", reasons)

    def _take(self, rows: list[int], lengths: list[int], scaled: list[bool], reasons: list[tuple[int, str]]) -> None:
        self.lengths[rows], self.scaled[rows] = lengths, scaled
        for row in rows:
            self._reasons.pop(row, None)
        self._reasons.update((row, reason) for row, reason in reasons)


def scanned(source: Source, folder: Path, max_bad: Decimal, workers: int | None, done: Callable[[int], None]) -> Scan:
    """The scan of a source, kept in `folder`; DataError if too many records are unusable, none can be used, or what is kept is damaged."""
    records, origin = len(source.table), source.table.origin
    entry = Entry(folder, f"lengths-{source.key[:32]}")
    place = entry.build(lambda part: Scan(part / "scan.jsonl", records).run(source, max_bad, workers, done))
    found = Scan(place / "scan.jsonl", records)
    if found.count(UNSEEN):
        raise DataError(f"{place}: damaged; remove that folder and run again.")
    if not len(found.usable):
        counts = f"{found.count(BAD)} unusable, {found.count(TOO_LONG)} too long, {found.count(LEFT_OUT)} left out"
        first = f" First: {found.reasons[0]}." if found.reasons else ""
        raise DataError(f"{origin}: none of its {records:,} records can be used ({counts}).{first}")
    found.refuse_beyond(max_bad, origin)  # an earlier run may have allowed more of them
    return found


class _Looks(Dataset[Look]):
    """What a source says of each record, for DataLoader's workers; UNSEEN with a reason where the source as a whole is wrong."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, row: int) -> Look:
        try:
            return self._source.look(row)
        except LayerPruneError as error:
            return UNSEEN, False, str(error)


def _looks(source: Source, chunks: Sequence[list[int]], workers: int | None) -> Iterator[list[Look]]:
    """The looks of each chunk. workers: None for as many as the cores, where there are enough records."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, 16) if len(chunks) * CHUNK >= WORTH_WORKERS else 0
    loader = DataLoader(_Looks(source), batch_sampler=chunks, collate_fn=list, num_workers=workers, worker_init_fn=_begin)
    try:
        for looks in loader:
            if wrong := next((reason for mark, _, reason in looks if mark == UNSEEN), ""):
                raise DataError(wrong)
            yield looks
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        origin = source.table.origin
        raise DataError(f"{origin}: a process that read it died, perhaps for want of memory. Run again, with fewer.") from error


def _begin(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # in this worker alone: it is one of many, and forked
