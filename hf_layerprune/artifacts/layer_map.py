"""A plan as a picture in text: one column a layer, what it scored and what becomes of it, within 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_layerprune.artifacts.plan import PruningPlan

LAYERS_A_ROW = 22
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "12345678"
MARKS = {"removed": ("✕", "x"), "kept": ("■", "o"), "protected": ("◆", "#"), "none": ("·", ".")}  # for all, for ASCII alone

Scores = Sequence[float | None]


def layer_map(plan: PruningPlan, rows: Mapping[str, Scores] | None = None, *, ascii_only: bool = False) -> list[str]:
    """Lines of the map. rows: per label one number a layer, drawn as bars over the free layers; by default the plan's own scores."""
    if rows is None:
        rows = {"score": plan.scores} if any(score is not None for score in plan.scores) else {}
    free = [layer for layer in range(plan.layers) if layer not in plan.protected]
    bars = {label: _bars(scores, free, ascii_only) for label, scores in rows.items()}
    marks = [mark(_fate(plan, layer), ascii_only) for layer in range(plan.layers)]
    lines = []
    for start in range(0, plan.layers, LAYERS_A_ROW):
        part = range(start, min(start + LAYERS_A_ROW, plan.layers))
        lines.append(_row("layer", [str(layer) for layer in part]))
        lines += [_row(label, [cells[layer] for layer in part]) for label, cells in bars.items()]
        lines.append(_row("", [marks[layer] for layer in part]))
    labels = {"removed": removed_label(plan), "kept": "kept", "protected": "protected"}
    legend = "   ".join(f"{mark(name, ascii_only)} {label}" for name, label in labels.items())
    return [*lines, f"          {legend}{'   taller: more redundant' if bars else ''}"]


def removal_lines(plan: PruningPlan) -> list[str]:
    """Which layers go, and which would be next; whether a rule was relaxed; where a pruned source's layers came from."""
    coming = _next(plan)
    hint = f" (next would be {coming})" if coming is not None else ""
    relaxed = " (relaxed)" if plan.relaxed else ""
    lines = [f"removed {len(plan.drop)} of {plan.layers} layers{relaxed}: {', '.join(map(str, plan.drop))}{hint}"]
    if plan.relaxed:
        reached = f"{len(plan.strict_drop)} of {len(plan.drop)}"
        lines.append(f"relaxed {plan.strategy}'s own spacing rule reaches {reached} layers; the removed ones are only not adjacent")
    if plan.original_layers is not None:
        lines.append(f"lineage the layers left are {', '.join(map(str, plan.kept_original_layers()))} of the first ancestor")
    return lines


def removed_label(plan: PruningPlan) -> str:
    """What a legend calls the removed layers: the plan's spacing rule may have been relaxed to reach its budget."""
    return "removed (relaxed)" if plan.relaxed else "removed"


def mark(name: str, ascii_only: bool) -> str:
    """The sign for what becomes of a layer: removed, kept, protected; or none, where a layer has no score."""
    return MARKS[name][ascii_only]


def _next(plan: PruningPlan) -> int | None:
    """The layer that one more would take, where the plan is the top of its scores."""
    ranked = sorted((score, layer) for layer, score in enumerate(plan.scores) if score is not None and layer not in plan.protected)
    k = len(plan.drop)
    top = tuple(sorted(layer for _, layer in ranked[-k:]))
    return ranked[-k - 1][1] if len(ranked) > k and top == plan.drop else None


def _fate(plan: PruningPlan, layer: int) -> str:
    return "removed" if layer in plan.drop else "protected" if layer in plan.protected else "kept"


def _bars(scores: Scores, free: Sequence[int], ascii_only: bool) -> list[str]:
    """A bar for every free layer with a score, by its rank among them: by value one far-off layer would level all others."""
    known = {layer: score for layer in free if (score := scores[layer]) is not None}
    ranked = sorted(known.values())
    glyphs = ASCII_BARS if ascii_only else BARS
    height = {layer: round(ranked.index(score) / max(len(ranked) - 1, 1) * 7) for layer, score in known.items()}
    return [glyphs[height[layer]] if layer in known else mark("none", ascii_only) for layer in range(len(scores))]


def _row(label: str, cells: Sequence[str]) -> str:
    return f" {label:<8}" + "".join(f"{cell:>3}" for cell in cells)
