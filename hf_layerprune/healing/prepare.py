"""From specs to what a Trainer reads: open the sources, look at every record once, mix, and encode samples when they are asked for."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import Dataset

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.data.image_files import BadRecord
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.data.store import Entry
from hf_layerprune.data.tables import open_table
from hf_layerprune.errors import DataError, UsageError
from hf_layerprune.healing.encoding import ChatEncoder, EncodedSample
from hf_layerprune.healing.filters import NO_FILTERS, Filters
from hf_layerprune.healing.mixture import mixed
from hf_layerprune.healing.rendered_math import RenderedMath
from hf_layerprune.healing.scan import BAD, LEFT_OUT, LISTED, TOO_LONG, Scan, Source, read_scan, scan

FORMAT = 1


@dataclass(frozen=True)
class SourceReport:
    """What became of one source's records: available = used + bad + too_long + left_out.

    spec: as DataSpec.parse takes it, pinned to the commit; revision: commit on the Hub or None; digest: sha256 of its content;
    scaled: of the used ones, those whose pictures are scaled down; samples: how many an epoch has of them by the weight; tokens: in
    these samples; filters: the limits of `Filters`, by name; rendered_math: whether problems were taken as pictures.
    """

    spec: str
    origin: str
    revision: str | None
    digest: str
    available: int
    used: int
    bad: int
    too_long: int
    left_out: int
    scaled: int
    samples: int
    tokens: int
    filters: Mapping[str, str | None]
    rendered_math: bool


@dataclass(frozen=True)
class DataReport:
    """What healing data consist of. reasons: the first hundred for records that are bad or too long."""

    sources: tuple[SourceReport, ...]
    samples: int
    max_length: int
    seed: int
    reasons: tuple[str, ...]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class HealingData(Dataset[EncodedSample]):
    """The samples of one epoch, in the order in which they were mixed, each encoded when it is asked for.

    lengths: of each sample in tokens. It can be pickled, and holds no picture.
    """

    def __init__(
        self, sources: Sequence[Source], order: Int[np.ndarray, "sample 2"], lengths: Int[np.ndarray, "sample"], report: DataReport
    ) -> None:
        self._sources, self._order, self.lengths, self.report = tuple(sources), order, lengths, report

    @property
    def digest(self) -> str:
        """sha256 of all that decides every sample and its place."""
        return self.report.digest

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> EncodedSample:
        """The tensors of a sample, as ChatEncoder.encode makes them; DataError if its record is not as it was when it was prepared."""
        number, row = map(int, self._order[index])
        try:
            sample = self._sources[number].sample(row)
        except BadRecord as bad:
            raise DataError(f"{bad}; it could be used when the data were prepared. Put it back, or change the file.") from bad
        if len(sample["input_ids"]) != self.lengths[index]:
            raise DataError(
                f"{self._sources[number].table.record(row).label}: {len(sample['input_ids'])} tokens, but {self.lengths[index]} when the "
                "data were prepared; a picture has changed. Put it back, or change the file."
            )
        return sample


def prepare_data(
    specs: Sequence[DataSpec],
    processor: Any,
    *,
    max_length: int,
    seed: int = 0,
    max_bad: Decimal = Decimal("0.01"),
    cache: Path | None = None,
    filters: Filters = NO_FILTERS,
    rendering: RenderedMath | None = None,
    workers: int | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> HealingData:
    """Healing data from one or more sources for one processor.

    max_length: of a sample in tokens; max_bad: the share of a source's records that may be bad; cache: where what is drawn from the
    Hub and what is found out about each record is kept (nowhere and huggingface_hub's own place, if None); rendering: take problems
    and solutions as pictures and answers; workers: processes that look at records (None: as many as pay); progress: told of records
    done and in all. Of several processes on a machine, all may call it: one works, and the others wait for it.

    Raises UsageError for a spec or limit that cannot be honoured, DataError if a source cannot be read, has too many bad records,
    or none that can be used, and ModelError if the processor is none that can be trained with.
    """
    if not specs or max_length < 1:
        raise UsageError(f"expected at least one source of data and a max_length above 0; got {len(specs)} and {max_length}.")
    encoder = ChatEncoder.of(processor, max_length)
    place = {"cache": cache, "seed": seed, "share": filters.share, "token": token, "local_files_only": local_files_only, "say": say}
    tables = [open_table(spec, **place) for spec in specs]  # type: ignore[arg-type]
    sources = [Source(table, encoder, filters, rendering) for table in tables]
    total, before, scans = sum(map(len, tables)), 0, []
    for source in sources:
        start = before
        scans.append(_scanned(source, max_bad, cache, workers, lambda done, start=start: progress(start + done, total)))  # type: ignore[misc]
        before += len(source.table)
        progress(before, total)
    return _mixed(specs, sources, scans, seed)


def _scanned(source: Source, max_bad: Decimal, cache: Path | None, workers: int | None, done: Callable[[int], None]) -> Scan:
    with ExitStack() as stack:
        place = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="layerprune-")))
        found = read_scan(Entry(place, f"scan-{_key(source)[:32]}").build(lambda folder: scan(folder, source, max_bad, workers, done)))
        found = found if cache else Scan(np.array(found.lengths), np.array(found.scaled), found.reasons)
    if not len(found.usable):
        counts = f"{found.count(BAD)} bad, {found.count(TOO_LONG)} too long, {found.count(LEFT_OUT)} left out"
        first = f" First: {found.reasons[0]}." if found.reasons else ""
        raise DataError(f"{source.table.origin}: none of its {len(found.lengths):,} records can be used ({counts}).{first}")
    if found.count(BAD) > int(max_bad * len(found.lengths)):  # an earlier run allowed more of them
        raise DataError(
            f"{'; '.join(found.reasons[:3])}. {found.count(BAD)} bad of {len(found.lengths):,} records of {source.table.origin}, "
            "more than --max-bad allows. Mend or remove them, or raise it."
        )
    return found


def _key(source: Source) -> str:
    """sha256 of what decides a scan."""
    rendering = source.rendering.digest if source.rendering else None
    content = [FORMAT, source.table.digest, source.encoder.fingerprint, _limits(source), rendering]
    return digest_of(content)


def _limits(source: Source) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in asdict(source.filters).items()}


def _mixed(specs: Sequence[DataSpec], sources: Sequence[Source], scans: Sequence[Scan], seed: int) -> HealingData:
    order = mixed([found.usable for found in scans], [spec.weight for spec in specs], seed)
    lengths = np.empty(len(order), np.int32)
    for number, found in enumerate(scans):
        mine = order[:, 0] == number
        lengths[mine] = found.lengths[order[mine, 1]]
    whole = hashlib.sha256(json.dumps([_key(source) for source in sources]).encode())
    whole.update(order.astype("<i8").tobytes())
    reports = tuple(
        _source_report(spec, source, found, lengths[order[:, 0] == number])
        for number, (spec, source, found) in enumerate(zip(specs, sources, scans))
    )
    reasons = tuple(reason for found in scans for reason in found.reasons)[:LISTED]
    report = DataReport(reports, len(order), sources[0].encoder.max_length, seed, reasons, whole.hexdigest())
    return HealingData(sources, order, lengths, report)


def _source_report(spec: DataSpec, source: Source, found: Scan, drawn: Int[np.ndarray, "sample"]) -> SourceReport:
    table = source.table
    counts = {"bad": found.count(BAD), "too_long": found.count(TOO_LONG), "left_out": found.count(LEFT_OUT)}
    return SourceReport(
        spec=str(spec.as_recorded(table.revision)),
        origin=table.origin,
        revision=table.revision,
        digest=table.digest,
        available=len(table),
        used=len(found.usable),
        **counts,
        scaled=int(np.asarray(found.scaled).sum()),
        samples=len(drawn),
        tokens=int(drawn.sum(dtype=np.int64)),
        filters=_limits(source),
        rendered_math=source.rendering is not None,
    )
