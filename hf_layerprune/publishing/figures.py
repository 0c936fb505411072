"""The card's figures, drawn from the records in a light and a dark version."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.pictures import LAYER_MAP, LAYER_MAP_DARK, LOSS, LOSS_DARK

SMOOTHED = 0.06  # of the loss curve: the width of the running mean
DPI = 100
DRAWN = 1e30  # the greatest number that is drawn: a damaged record may hold some that no axis can


@dataclass(frozen=True)
class Theme:
    """Colours that can be told apart by people who see few of them, on a page's own background."""

    page: str
    ink: str
    faint: str
    math: str
    general: str
    removed: str
    kept: str
    protected: str


LIGHT = Theme("#ffffff", "#1f2328", "#d0d7de", "#0072b2", "#b35c00", "#d62728", "#7a8793", "#c3cad1")
DARK = Theme("#0d1117", "#e6edf3", "#30363d", "#56b4e9", "#e69f00", "#ff7b72", "#9198a1", "#4a525b")


def draw_figures(facts: CardFacts) -> dict[str, bytes]:
    """PNGs by file name: the layer map of a pruned model, the loss of a healed one. None where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return {}
    found: dict[str, bytes] = {}
    if facts.plan:
        found |= {LAYER_MAP: draw_map(facts.plan, facts.statistics, LIGHT), LAYER_MAP_DARK: draw_map(facts.plan, facts.statistics, DARK)}
    if facts.healing and facts.healing.steps:
        found |= {LOSS: draw_loss(facts.healing.curve["loss"], LIGHT), LOSS_DARK: draw_loss(facts.healing.curve["loss"], DARK)}
    return found


def draw_map(plan: PruningPlan, statistics: LayerStatistics | None, theme: Theme) -> bytes:
    """How much each layer changes on each domain, where it was measured, above the scores of the plan, where it has some."""
    scored = any(score is not None for score in plan.scores)
    rows = [*(["change"] if statistics and statistics.domains else []), *(["score"] if scored else [])] or ["strip"]
    figure = _figure(theme, {"strip": 1.5, "score": 2.6, "change": 2.6}[rows[0]] if len(rows) == 1 else 4.4)
    axes = dict(zip(rows, np.ravel(figure.subplots(len(rows), 1, sharex=True)), strict=True))
    for ax in axes.values():
        _dress(ax, theme)
        _shade(ax, plan, theme)
    if "change" in axes and statistics:
        _draw_change(axes["change"], statistics, theme)
    if "score" in axes:
        _draw_scores(axes["score"], plan, theme)
    if "strip" in axes:
        axes["strip"].set_yticks([])
    bottom = axes[rows[-1]]
    bottom.margins(y=0.2)
    # Not by colour alone: a cross, too, above the bars.
    bottom.plot(plan.drop, [0.93] * len(plan.drop), "x", color=theme.removed, ms=7, mew=2, transform=bottom.get_xaxis_transform())
    bottom.set(xlabel="decoder layer of the source", xlim=(-0.6, plan.layers - 0.4))
    bottom.set_xticks(list(range(plan.layers))[:: max(1, plan.layers // 24)])
    axes[rows[0]].legend(
        *_legend(axes[rows[0]], plan, theme),
        ncols=5,
        fontsize=8,
        frameon=False,
        labelcolor=theme.ink,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
    )
    return _png(figure)


def draw_loss(losses: Any, theme: Theme) -> bytes:
    """The loss of each step and its running mean."""
    steps, values = np.arange(1, len(losses) + 1), np.clip(np.asarray(losses, dtype=float), -DRAWN, DRAWN)
    width = max(1, round(SMOOTHED * len(values)))
    figure = _figure(theme, 3.0)
    ax = figure.add_subplot()
    _dress(ax, theme)
    ax.plot(steps, values, color=theme.kept, lw=1, label="each step")
    if width > 1:
        ax.plot(
            steps[width - 1 :],
            np.convolve(values, np.ones(width) / width, mode="valid"),
            color=theme.math,
            lw=2,
            label=f"mean of {width} steps",
        )
    ax.set(xlabel="optimizer step", ylabel="loss (nats an answer token)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, labelcolor=theme.ink, fontsize=8)
    return _png(figure)


def _draw_change(ax: Any, statistics: LayerStatistics, theme: Theme) -> None:
    for domain, label, colour, sign in (("math", "math pictures", theme.math, "o"), ("nonmath", "general pictures", theme.general, "s")):
        if domain in statistics.domains:
            change = np.maximum(1 - statistics.cosine(domain), 1e-12)
            error = statistics.cosine_error(domain)
            ax.errorbar(range(len(change)), change, error, color=colour, marker=sign, ms=4, lw=1.4, label=label)
    ax.set_yscale("log")
    ax.set_ylabel("change: 1 - cosine")


def _draw_scores(ax: Any, plan: PruningPlan, theme: Theme) -> None:
    known = [(layer, score) for layer, score in enumerate(plan.scores) if score is not None]
    colours = [theme.removed if layer in plan.drop else theme.kept for layer, _ in known]
    ax.bar([layer for layer, _ in known], np.clip([score for _, score in known], -DRAWN, DRAWN), color=colours, width=0.7)
    ax.axhline(0, color=theme.faint, lw=0.8, zorder=0)
    ax.set_ylabel("score of the method")


def _shade(ax: Any, plan: PruningPlan, theme: Theme) -> None:
    """Removed layers and protected ones, each in a colour of its own."""
    for layer in plan.drop:
        ax.axvspan(layer - 0.5, layer + 0.5, color=theme.removed, alpha=0.18, lw=0, zorder=0)
    for layer in plan.protected:
        ax.axvspan(layer - 0.5, layer + 0.5, color=theme.protected, alpha=0.35, lw=0, zorder=0)


def _legend(ax: Any, plan: PruningPlan, theme: Theme) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=theme.removed, marker="x", ls="", ms=7, mew=2))
    labels.append("removed")
    if plan.protected:
        handles.append(Patch(color=theme.protected, alpha=0.35, lw=0))
        labels.append("protected")
    return handles, labels


def _figure(theme: Theme, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), dpi=DPI, layout="constrained", facecolor=theme.page)


def _dress(ax: Any, theme: Theme) -> None:
    ax.set_facecolor(theme.page)
    ax.tick_params(colors=theme.ink, labelsize=8)
    ax.grid(axis="y", color=theme.faint, lw=0.6, alpha=0.7)
    ax.set_axisbelow(True)
    ax.xaxis.label.set_color(theme.ink)
    ax.yaxis.label.set_color(theme.ink)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(theme.faint)


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None}, facecolor=figure.get_facecolor())
    return content.getvalue()
