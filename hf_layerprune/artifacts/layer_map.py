"""A plan as a map in text: one column a layer, what it scored and what becomes of it, within 80 columns."""

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
    fates = ["removed" if i in plan.drop else "protected" if i in plan.protected else "kept" for i in range(plan.layers)]
    cells = {
        "layer": [str(layer) for layer in range(plan.layers)],
        **{label: _bars(scores, plan, ascii_only) for label, scores in rows.items()},
        "": [mark(fate, ascii_only) for fate in fates],
    }
    lines = []
    for start in range(0, plan.layers, LAYERS_A_ROW):
        for label, row in cells.items():
            lines.append(f" {label:<8}" + "".join(f"{cell:>3}" for cell in row[start : start + LAYERS_A_ROW]))
    labels = {"removed": removed_label(plan), "kept": "kept", "protected": "protected"}
    legend = "   ".join(f"{mark(name, ascii_only)} {label}" for name, label in labels.items())
    return [*lines, f"          {legend}{'   taller: more redundant' if rows else ''}"]


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


def _bars(scores: Scores, plan: PruningPlan, ascii_only: bool) -> list[str]:
    """A bar for every free layer with a score, by its rank among them: by value one far-off layer would level all others."""
    known = {layer: score for layer, score in enumerate(scores) if score is not None and layer not in plan.protected}
    ranked, glyphs = sorted(known.values()), ASCII_BARS if ascii_only else BARS
    height = {layer: round(ranked.index(score) / max(len(ranked) - 1, 1) * 7) for layer, score in known.items()}
    return [glyphs[height[layer]] if layer in known else mark("none", ascii_only) for layer in range(plan.layers)]
