"""The layer map: what each decoder layer does, what the method made of it, and which were removed."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_layerprune.artifacts.plan import PruningPlan, removed_label
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.figures.theme import DRAWN, Theme, dress, new_figure, png


def draw_map(plan: PruningPlan, statistics: LayerStatistics | None, theme: Theme) -> bytes:
    """How much each layer changes on each domain, where it was measured, above the scores of the plan, where it has some."""
    scored = any(score is not None for score in plan.scores)
    rows = [*(["change"] if statistics and statistics.domains else []), *(["score"] if scored else [])] or ["strip"]
    figure = new_figure(theme, {"strip": 1.5, "score": 2.6, "change": 2.6}[rows[0]] if len(rows) == 1 else 4.4)
    axes = dict(zip(rows, np.ravel(figure.subplots(len(rows), 1, sharex=True)), strict=True))
    for ax in axes.values():
        dress(ax, theme)
        for layers, color, alpha in ((plan.drop, theme.removed, 0.18), (plan.protected, theme.protected, 0.35)):
            for layer in layers:
                ax.axvspan(layer - 0.5, layer + 0.5, color=color, alpha=alpha, lw=0, zorder=0)
    if "change" in axes and statistics:
        _draw_change(axes["change"], statistics, theme)
    if "score" in axes:
        _draw_scores(axes["score"], plan, theme)
    if "strip" in axes:
        axes["strip"].set_yticks([])
    top, bottom = axes[rows[0]], axes[rows[-1]]
    bottom.margins(y=0.2)
    # Not by colour alone: a cross, too, above the bars.
    bottom.plot(plan.drop, [0.93] * len(plan.drop), "x", color=theme.removed, ms=7, mew=2, transform=bottom.get_xaxis_transform())
    bottom.set(xlabel="decoder layer of the source", xlim=(-0.6, plan.layers - 0.4))
    bottom.set_xticks(list(range(plan.layers))[:: max(1, plan.layers // 24)])
    handles, labels = _legend(top, plan, theme)
    top.legend(handles, labels, ncols=5, fontsize=8, frameon=False, labelcolor=theme.ink, loc="lower left", bbox_to_anchor=(0, 1.0))
    return png(figure)


def _draw_change(ax: Any, statistics: LayerStatistics, theme: Theme) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    styles = {"math": ("math images", theme.math, "o"), "nonmath": ("general images", theme.general, "s")}
    for domain in statistics.domains:
        label, color, sign = styles.get(domain, (f"{domain} images", theme.ink, "^"))
        change, error = np.maximum(1 - statistics.cosine(domain), 1e-12), statistics.cosine_error(domain)
        ax.errorbar(range(len(change)), change, error, color=color, marker=sign, ms=4, lw=1.4, label=label)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("change: 1 - cosine")


def _draw_scores(ax: Any, plan: PruningPlan, theme: Theme) -> None:
    known = [(layer, score) for layer, score in enumerate(plan.scores) if score is not None]
    colors = [theme.removed if layer in plan.drop else theme.kept for layer, _ in known]
    heights, scale = np.clip([score for _, score in known], -DRAWN, DRAWN), ""
    free = [score for layer, score in known if layer not in plan.protected] or [0.0]
    narrow = 0 < max(free) - min(free) < min(free) / 2  # drawn from 0 all bars would look the same
    if narrow and heights.max() <= 1:  # similarities: what they lack to 1 tells them apart
        scale, heights = "\n(not a linear axis)", -np.log10(np.maximum(1 - heights, 1e-12))
        ticks = range(max(0, int(np.floor(heights.min()))), int(np.ceil(heights.max())) + 1)
        ax.set_yticks(ticks, [f"{1 - 10.0**-tick:.{tick}f}" for tick in ticks])
    if narrow:
        scale, margin = scale or "\n(axis does not begin at 0)", 0.15 * float(heights.max() - heights.min())
        ax.set_ylim(heights.min() - margin, heights.max() + margin)
    ax.bar([layer for layer, _ in known], heights, color=colors, width=0.7)
    ax.axhline(0, color=theme.faint, lw=0.8, zorder=0)
    ax.set_ylabel(f"score: {_which_go(plan)}{scale}", fontsize=9)


def _which_go(plan: PruningPlan) -> str:
    """Which scores go, as those of the free layers show."""
    free = {layer: score for layer, score in enumerate(plan.scores) if score is not None and layer not in plan.protected}
    gone, kept = ([score for layer, score in free.items() if (layer in plan.drop) is dropped] for dropped in (True, False))
    if not gone or not kept:
        return "of the method"
    if min(gone) >= max(kept) or max(gone) <= min(kept):
        return "the highest go" if min(gone) >= max(kept) else "the lowest go"
    return "high ones go" if np.mean(gone) > np.mean(kept) else "low ones go"


def _legend(ax: Any, plan: PruningPlan, theme: Theme) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=theme.removed, marker="x", ls="", ms=7, mew=2))
    labels.append(removed_label(plan))
    if plan.protected:
        handles.append(Patch(color=theme.protected, alpha=0.35, lw=0))
        labels.append("protected")
    return handles, labels
