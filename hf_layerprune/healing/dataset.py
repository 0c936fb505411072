"""The dataset of a healing: records of several sources, looked at once, mixed by weight and seed, encoded when asked for."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import Dataset

from hf_layerprune.artifacts.healing_record import DataReport, SourceReport
from hf_layerprune.data.records import LISTED, UnusableRecord
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError
from hf_layerprune.healing.encoding import ChatEncoder, EncodedSample
from hf_layerprune.healing.rendered_math import RenderedMath, evaluation_items
from hf_layerprune.healing.request import DataRequest
from hf_layerprune.healing.scan import BAD, LEFT_OUT, TOO_LONG, Scan, Source, scanned

Rows = Int[np.ndarray, "record"]
Order = Int[np.ndarray, "sample 2"]  # source and record


@dataclass(frozen=True, eq=False)
class HealingData(Dataset[EncodedSample]):
    """The samples of one epoch in the order of training, each encoded when it is asked for. It can be pickled, and holds no image."""

    sources: tuple[Source, ...]
    order: Order
    lengths: Int[np.ndarray, "sample"]  # in tokens
    report: DataReport

    @property
    def digest(self) -> str:
        """sha256 of all that decides every sample and its place."""
        return self.report.digest

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> EncodedSample:
        """The tensors of a sample, as ChatEncoder.encode makes them; DataError if its record is not as it was when it was prepared."""
        number, row = map(int, self.order[index])
        source, expected = self.sources[number], self.lengths[index]
        try:
            sample = source.sample(row)
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
    sources = tuple(Source(table, encoder, request.filters, rendering) for table in tables)
    total, before, scans = sum(map(len, tables)), 0, []
    with ExitStack() as stack:
        folder = request.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="layerprune-")))
        for source in sources:

            def done(looked: int, before: int = before) -> None:
                progress(before + looked, total)

            scans.append(scanned(source, folder, request.max_bad, request.workers, done))
            before += len(source.table)
            progress(before, total)
    return _mixed_data(request, sources, scans)


def _mixed_data(request: DataRequest, sources: tuple[Source, ...], scans: Sequence[Scan]) -> HealingData:
    order = mixed([found.usable for found in scans], [spec.weight for spec in request.sources], request.seed)
    lengths = np.empty(len(order), np.int32)
    for number, found in enumerate(scans):
        mine = order[:, 0] == number
        lengths[mine] = found.lengths[order[mine, 1]]
    whole = hashlib.sha256(json.dumps([source.key for source in sources]).encode())
    whole.update(order.astype("<i8").tobytes())
    reports = tuple(
        _source_report(spec, source, found, lengths[order[:, 0] == number])
        for number, (spec, source, found) in enumerate(zip(request.sources, sources, scans, strict=True))
    )
    reasons = tuple(reason for found in scans for reason in found.reasons)[:LISTED]
    report = DataReport(reports, len(order), request.max_length, request.seed, reasons, whole.hexdigest())
    return HealingData(sources, order, lengths, report)


def _source_report(spec: DataSpec, source: Source, found: Scan, drawn: Int[np.ndarray, "sample"]) -> SourceReport:
    return SourceReport(
        spec=str(spec.as_recorded(source.table.revision)),
        origin=source.table.origin,
        revision=source.table.revision,
        digest=source.table.digest,
        available=len(source.table),
        used=len(found.usable),
        bad=found.count(BAD),
        too_long=found.count(TOO_LONG),
        left_out=found.count(LEFT_OUT),
        scaled=int(found.scaled.sum()),
        samples=len(drawn),
        tokens=int(drawn.sum(dtype=np.int64)),
        filters=source.limits,
        rendered_math=source.rendering is not None,
    )


def mixed(sources: Sequence[Rows], weights: Sequence[Decimal], seed: int) -> Order:
    """The order of an epoch: of weight 2.5 every record twice, and half of them, drawn uniformly, a third time; all shuffled together.

    A source that has a record gives at least one. The same arguments give the same order on every machine: numpy promises that
    RandomState never changes.
    """
    parts = [np.zeros((0, 2), np.int64)]
    for number, (rows, weight) in enumerate(zip(sources, weights, strict=True)):
        drawn = _weighted(np.asarray(rows, np.int64), weight, _random(f"{seed}/{number}"))
        parts.append(np.stack([np.full_like(drawn, number), drawn], 1))
    every = np.concatenate(parts)
    return every[_random(f"{seed}/order").permutation(len(every))]


def _weighted(rows: Rows, weight: Decimal, random: np.random.RandomState) -> Rows:
    whole = int(weight)
    some = int(((weight - whole) * len(rows)).to_integral_value(ROUND_HALF_UP))
    some = max(some, 1) if not whole and len(rows) else some
    return np.concatenate([np.tile(rows, whole), random.permutation(rows)[:some]])


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(np.frombuffer(hashlib.sha256(f"hf-layerprune/mixture/{name}".encode()).digest(), np.uint32))
