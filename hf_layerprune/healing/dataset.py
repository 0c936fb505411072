"""The dataset of a healing: records of several sources, scanned once, mixed by weight and seed, encoded when asked for.

The scan finds out before training which records can be used and how long they are, so that the number of steps is known, the
same on every rank. What was scanned is kept: an interrupted scan goes on, a finished one is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch.utils.data import DataLoader, Dataset

from hf_layerprune.artifacts.healing_record import DataReport, SourceReport
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.data.conversations import Conversation, conversation
from hf_layerprune.data.records import LISTED, LeftOut, RecordTable, Tolerance, UnusableRecord
from hf_layerprune.data.store import Entry
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError, LayerPruneError
from hf_layerprune.healing.encoding import ChatEncoder, EncodedSample, TooLong
from hf_layerprune.healing.rendered_math import RenderedMath, evaluation_items
from hf_layerprune.healing.request import NO_FILTERS, DataRequest, Filters

FORMAT = 1  # of what decides a scan; part of the key
UNSEEN, BAD, TOO_LONG, LEFT_OUT = 0, -1, -2, -3  # marks in place of a length
CHUNK = 64  # records that a worker looks at before it reports
WORTH_WORKERS = 1024  # records below which processes cost more than they save
Look = tuple[int, bool, str]  # length in tokens or a mark, whether images are scaled down, the reason if it cannot be used
Rows = Int[np.ndarray, "record"]
Order = Int[np.ndarray, "sample 2"]  # source and record


@dataclass(frozen=True)
class Source(Dataset[Look]):
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
        found = conversation(self.rendering.rendered(record) if self.rendering else record)
        self.filters.check(found)
        return found

    def __getitem__(self, index: int) -> Look:
        """What a scan says of a record; UNSEEN with a reason where the source as a whole is wrong."""
        try:
            return (*self.encoder.measure(self.conversation(index)), "")
        except UnusableRecord as bad:
            kind = TOO_LONG if isinstance(bad, TooLong) else LEFT_OUT if isinstance(bad, LeftOut) else BAD
            return kind, False, str(bad)
        except LayerPruneError as error:
            return UNSEEN, False, str(error)


class Scan:
    """What is known of each record of a source, kept as lines of JSON: the rows of a chunk, their lengths, scaled, and reasons."""

    def __init__(self, path: Path, source: Source, tolerance: Tolerance) -> None:
        """Read what an earlier scan left at `path`, if it left anything."""
        self.path, self.source, self._tolerance = path, source, tolerance
        self.lengths: Rows = np.full(len(source.table), UNSEEN, np.int32)  # in tokens, or a mark
        self.scaled: Bool[np.ndarray, "record"] = np.zeros(len(source.table), bool)  # whether its images are scaled down
        self._reasons: dict[int, str] = {}
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError, IndexError, OverflowError):  # the last line of a run that was killed
                    self._take(*json.loads(line))

    @classmethod
    def of(cls, source: Source, folder: Path, tolerance: Tolerance, workers: int | None, done: Callable[[int], None]) -> Scan:
        """The scan of a source, kept in `folder`; DataError if too many records are unusable, none is usable, or the folder is damaged."""
        entry = Entry(folder, f"lengths-{source.key[:32]}")
        place = entry.build(lambda part: cls(part / "scan.jsonl", source, tolerance).run(workers, done))
        found = cls(place / "scan.jsonl", source, tolerance)
        if found.count(UNSEEN):
            raise DataError(f"{place}: damaged; remove that folder and run again.")
        if not len(found.usable):
            counts = f"{found.count(BAD)} unusable, {found.count(TOO_LONG)} too long, {found.count(LEFT_OUT)} left out"
            first = f" First: {found.reasons[0]}." if found.reasons else ""
            raise DataError(f"{source.table.origin}: none of its {len(found.lengths):,} records can be used ({counts}).{first}")
        found.check()  # an earlier run may have allowed more unusable records
        return found

    @property
    def usable(self) -> Rows:
        """The numbers of the records that can be used."""
        return np.flatnonzero(self.lengths > 0)

    @property
    def reasons(self) -> list[str]:
        """Why records cannot be used: of the first hundred that are unusable or too long."""
        return [self._reasons[row] for row in sorted(self._reasons)[:LISTED]]

    def count(self, mark: int) -> int:
        return int((self.lengths == mark).sum())

    def check(self) -> None:
        """DataError if more records are unusable than is allowed."""
        reasons = [self._reasons.get(int(row), "") for row in np.flatnonzero(self.lengths == BAD)[:3]]
        self._tolerance.check(self.count(BAD), len(self.lengths), f"records of {self.source.table.origin}", reasons)

    def run(self, workers: int | None, done: Callable[[int], None]) -> None:
        """Look at all records that were not looked at yet, and again at the unusable ones, whose images may have been repaired.

        workers: None for as many as the cores, where there are enough records; done: told how many were looked at. DataError once
        too many are unusable.
        """
        rows = np.flatnonzero((self.lengths == UNSEEN) | (self.lengths == BAD))
        self.lengths[rows] = UNSEEN
        chunks = [rows[start : start + CHUNK].tolist() for start in range(0, len(rows), CHUNK)]
        if workers is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = min(cores, 16) if len(rows) >= WORTH_WORKERS else 0
        loader = DataLoader(self.source, batch_sampler=chunks, collate_fn=list, num_workers=workers, worker_init_fn=_quiet_tokenizers)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n")  # ends what a killed run left of a line
            for chunk, looks in zip(chunks, self._surviving(loader), strict=True):
                if wrong := next((reason for mark, _, reason in looks if mark == UNSEEN), ""):
                    raise DataError(wrong)
                few = self.count(TOO_LONG) < LISTED  # there may be a million of these, and only so many unusable ones
                reasons = {row: look[2] for row, look in zip(chunk, looks) if look[0] == BAD or (few and look[0] == TOO_LONG)}
                line = [chunk, [look[0] for look in looks], [look[1] for look in looks], list(reasons.items())]
                file.write(json.dumps(line) + "\n")
                file.flush()
                self._take(*line)
                done(len(self.lengths) - self.count(UNSEEN))
                self.check()
            os.fsync(file.fileno())

    def _surviving(self, loader: DataLoader[Look]) -> Iterator[list[Look]]:
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            died = "a process that read it died, perhaps out of memory. Run again, with fewer."
            raise DataError(f"{self.source.table.origin}: {died}") from error

    def _take(self, rows: list[int], lengths: list[int], scaled: list[bool], reasons: list[tuple[int, str]]) -> None:
        self.lengths[rows], self.scaled[rows] = lengths, scaled
        for row in rows:
            self._reasons.pop(row, None)
        self._reasons.update((row, reason) for row, reason in reasons)


@dataclass(frozen=True, eq=False)
class HealingData(Dataset[EncodedSample]):
    """The samples of one epoch in the order of training, each encoded when it is asked for. It can be pickled, and holds no image."""

    sources: tuple[Source, ...]
    order: Order
    lengths: Int[np.ndarray, "sample"]  # in tokens
    report: DataReport

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> EncodedSample:
        """The tensors of a sample, as ChatEncoder.encode makes them; DataError if its record is not as it was when it was scanned."""
        number, row = map(int, self.order[index])
        source, expected = self.sources[number], self.lengths[index]
        try:
            sample = source.encoder.encode(source.conversation(row))
        except UnusableRecord as bad:
            raise DataError(f"{bad}; it could be used when the data were prepared. Put it back, or change the file.") from bad
        if (found := len(sample["input_ids"])) != expected:
            raise DataError(
                f"{source.table.record(row).label}: {found} tokens, but {expected} when the data were prepared; "
                "an image has changed. Put it back, or change the file."
            )
        return sample


def prepare_data(
    request: DataRequest,
    processor: Any,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> HealingData:
    """The dataset that a request asks for, for one processor. progress: told of records looked at and in all; say: given lines for people.

    Of several processes on a machine, all may call it: one works, and the others wait for it. Raises UsageError for a source that
    cannot be honoured, DataError if one cannot be read, has too many unusable records, or none that can be used, and ModelError if
    the processor cannot be trained with.
    """
    encoder = ChatEncoder.of(processor, request.max_length)
    where: dict[str, Any] = {"cache": request.cache, "local_files_only": request.local_files_only, "say": say}
    rendering = RenderedMath(evaluation_items(open_table(spec, **where) for spec in request.exclude)) if request.render_math else None
    tables = [open_table(spec, seed=request.seed, share=request.filters.share, **where) for spec in request.sources]
    total, before, scans = sum(map(len, tables)), 0, []
    with ExitStack() as stack:
        folder = request.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="layerprune-")))
        for table in tables:

            def done(looked: int, before: int = before) -> None:
                progress(before + looked, total)

            source = Source(table, encoder, request.filters, rendering)
            scans.append(Scan.of(source, folder, request.tolerance, request.workers, done))
            before += len(table)
            progress(before, total)
    order = mixed([scan.usable for scan in scans], [spec.weight for spec in request.sources], request.seed)
    lengths, reports = np.empty(len(order), np.int32), []
    for number, (spec, scan) in enumerate(zip(request.sources, scans, strict=True)):
        mine = order[:, 0] == number
        lengths[mine] = scan.lengths[order[mine, 1]]
        reports.append(_source_report(spec, scan, lengths[mine]))
    sources = tuple(scan.source for scan in scans)
    whole = hashlib.sha256(json.dumps([source.key for source in sources]).encode())
    whole.update(order.astype("<i8").tobytes())
    reasons = tuple(reason for scan in scans for reason in scan.reasons)[:LISTED]
    report = DataReport(tuple(reports), len(order), request.max_length, request.seed, reasons, whole.hexdigest())
    return HealingData(sources, order, lengths, report)


def _source_report(spec: DataSpec, scan: Scan, drawn: Int[np.ndarray, "sample"]) -> SourceReport:
    table = scan.source.table
    return SourceReport(
        spec=str(spec.as_recorded(table.revision)),
        origin=table.origin,
        revision=table.revision,
        digest=table.digest,
        available=len(table),
        used=len(scan.usable),
        bad=scan.count(BAD),
        too_long=scan.count(TOO_LONG),
        left_out=scan.count(LEFT_OUT),
        scaled=int(scan.scaled.sum()),
        samples=len(drawn),
        tokens=int(drawn.sum(dtype=np.int64)),
        filters=scan.source.limits,
        rendered_math=scan.source.rendering is not None,
    )


def mixed(sources: Sequence[Rows], weights: Sequence[Decimal], seed: int) -> Order:
    """The order of an epoch: of weight 2.5 every record twice, and half of them, drawn uniformly, a third time; all shuffled together.

    A source that has a record gives at least one. The same arguments give the same order on every machine: numpy promises that
    RandomState never changes.
    """
    parts = [np.zeros((0, 2), np.int64)]
    for number, (rows, weight) in enumerate(zip(sources, weights, strict=True)):
        rows, whole = np.asarray(rows, np.int64), int(weight)
        some = int(((weight - whole) * len(rows)).to_integral_value(ROUND_HALF_UP))
        some = max(some, 1) if not whole and len(rows) else some
        drawn = np.concatenate([np.tile(rows, whole), _random(f"{seed}/{number}").permutation(rows)[:some]])
        parts.append(np.stack([np.full_like(drawn, number), drawn], 1))
    every = np.concatenate(parts)
    return every[_random(f"{seed}/order").permutation(len(every))]


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(np.frombuffer(hashlib.sha256(f"hf-layerprune/mixture/{name}".encode()).digest(), np.uint32))


def _quiet_tokenizers(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # in this worker alone: it is one of many, and forked
