"""The report for people: a few lines around the layer map, in what the terminal can show."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hf_layerprune.artifacts.plan import BARS, MARKS, layer_map, mark
from hf_layerprune.artifacts.prompts import Domain

if TYPE_CHECKING:
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.source import Reading

LABELS: dict[Domain, str] = {"math": "math", "nonmath": "general"}


def model_line(checkpoint: Checkpoint) -> str:
    facts = checkpoint.facts
    name = facts.source.id + (f" @ {facts.source.commit[:7]}" if facts.source.commit else "")
    return f"{name} · {facts.family} · {facts.layers} decoder layers x {facts.hidden_size} · {count(checkpoint.parameters)} parameters"


def map_lines(plan: PruningPlan, statistics: LayerStatistics | None) -> list[str]:
    """The layer map with a row of bars per probed domain, removed layers in red where there are colours."""
    rows = {LABELS[domain]: statistics.cosine(domain).tolist() for domain in statistics.domains} if statistics else None
    plain = not _unicode()
    removed = mark("removed", plain)
    return [line.replace(removed, click.style(removed, fg="red", bold=True)) for line in layer_map(plan, rows, ascii_only=plain)]


def reading_line(reading: Reading) -> str:
    """What was read of a model on the Hub, and that its weights were not."""
    headers = f"{reading.headers} header{'s' * (reading.headers != 1)}"
    parts = [headers, *reading.files]
    listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"(read {listed} over the network, {size(reading.bytes)}; no weights)"


def count(number: float) -> str:
    """A number of parameters: 3.83 M, 4.44 B."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes in powers of ten, as disks and the Hub count them: 7.3 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{number / factor:.2f} {unit}" if number < 10 * factor else f"{number / factor:.1f} {unit}"
    return f"{number:.0f} bytes"


def _unicode() -> bool:
    """Whether stdout can show the bars at all."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    shown: str = BARS + "".join(mark for mark, _ in MARKS.values())
    try:
        shown.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
