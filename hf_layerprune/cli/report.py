"""The report for people: the layer map and a few lines, within 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hf_layerprune.artifacts.prompts import Domain

if TYPE_CHECKING:
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.checkpoint.index import Checkpoint

LAYERS_A_ROW = 22
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "12345678"
MARKS = {"removed": ("✕", "x"), "kept": ("■", "o"), "protected": ("◆", "#"), "none": ("·", ".")}
LABELS: dict[Domain, str] = {"math": "math", "nonmath": "general"}


def model_line(checkpoint: Checkpoint) -> str:
    facts = checkpoint.facts
    name = facts.source.id + (f" @ {facts.source.commit[:7]}" if facts.source.commit else "")
    return f"{name} · {facts.family} · {facts.layers} decoder layers x {facts.hidden_size} · {count(checkpoint.parameters)} parameters"


def layer_map(plan: PruningPlan, statistics: LayerStatistics | None) -> list[str]:
    """One column a layer: its redundancy per domain, and what becomes of it; a bar is taller where a layer changes less."""
    domains = statistics.domains if statistics else ()
    rows: list[tuple[str, Sequence[float | None]]] = [(LABELS[d], statistics.cosine(d).tolist()) for d in domains if statistics]
    if not rows and any(score is not None for score in plan.scores):
        rows = [("score", plan.scores)]
    free = [layer for layer in range(plan.layers) if layer not in plan.protected]
    bars = [(label, _bars(scores, free)) for label, scores in rows]
    marks = [_mark(plan, layer) for layer in range(plan.layers)]
    lines = []
    for start in range(0, plan.layers, LAYERS_A_ROW):
        part = range(start, min(start + LAYERS_A_ROW, plan.layers))
        lines.append(_row("layer", [str(layer) for layer in part]))
        lines += [_row(label, [cells[layer] for layer in part]) for label, cells in bars]
        lines.append(_row("", [marks[layer] for layer in part]))
    legend = "   ".join(f"{_glyph(name)} {name}" for name in ("removed", "kept", "protected"))
    return [*lines, f"          {legend}" + ("   taller: changes its input less" if bars else "")]


def removal_lines(plan: PruningPlan) -> list[str]:
    """Which layers go, and which would be next; whether a rule was relaxed."""
    coming = _next(plan)
    hint = f" (next would be {coming})" if coming is not None else ""
    lines = [f"removed {len(plan.drop)} of {plan.layers} layers: {', '.join(map(str, plan.drop))}{hint}"]
    if plan.relaxed:
        reached = f"{len(plan.strict_drop)} of {len(plan.drop)}"
        lines.append(f"relaxed {plan.strategy}'s own spacing rule reaches {reached}; no two neighbours were removed instead")
    if plan.original_layers is not None:
        lines.append(f"lineage the kept layers are {', '.join(map(str, plan.kept_original_layers()))} of the first ancestor")
    return lines


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


def _next(plan: PruningPlan) -> int | None:
    """The layer that one more would take, where the plan is the top of its scores."""
    ranked = sorted((score, layer) for layer, score in enumerate(plan.scores) if score is not None and layer not in plan.protected)
    k = len(plan.drop)
    top = tuple(sorted(layer for _, layer in ranked[-k:]))
    return ranked[-k - 1][1] if len(ranked) > k and top == plan.drop else None


def _bars(scores: Sequence[float | None], free: Sequence[int]) -> list[str]:
    known = [value for layer in free if (value := scores[layer]) is not None]
    low, spread = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    glyphs = BARS if _unicode() else ASCII_BARS
    cells = []
    for layer, score in enumerate(scores):
        shown = score is not None and layer in free
        cells.append(glyphs[round((score - low) / spread * 7) if spread else 7] if shown and score is not None else _glyph("none"))
    return cells


def _mark(plan: PruningPlan, layer: int) -> str:
    state = "removed" if layer in plan.drop else "protected" if layer in plan.protected else "kept"
    return click.style(_glyph(state), fg="red", bold=True) if state == "removed" else _glyph(state)


def _row(label: str, cells: Sequence[str]) -> str:
    return f" {label:<8}" + "".join(" " * (3 - len(click.unstyle(cell))) + cell for cell in cells)


def _glyph(name: str) -> str:
    return MARKS[name][0 if _unicode() else 1]


def _unicode() -> bool:
    """Whether stdout can show the bars at all."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    shown: str = BARS + "".join(mark for mark, _ in MARKS.values())
    try:
        shown.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
