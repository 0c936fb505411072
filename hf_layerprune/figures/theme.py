"""What all figures have in common: colours, size, the form of an axis."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from typing import Any

DPI = 100
DRAWN = 1e30  # the largest number that is drawn: a damaged record may hold some that no axis can


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


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


def new_figure(theme: Theme, height: float) -> Any:
    """An empty figure as wide as a page, `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), dpi=DPI, layout="constrained", facecolor=theme.page)


def dress(ax: Any, theme: Theme) -> None:
    """Colours, grid and frame of an axis."""
    ax.set_facecolor(theme.page)
    ax.tick_params(which="both", colors=theme.ink, labelsize=8)
    ax.grid(axis="y", color=theme.faint, lw=0.6, alpha=0.7)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_color(theme.ink)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(theme.faint)


def png(figure: Any) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None}, facecolor=figure.get_facecolor())
    return content.getvalue()
