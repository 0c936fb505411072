"""The loss curve as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

SMOOTHED = 0.06  # of the curve: the width of the running mean


def draw_loss(losses: Sequence[float], title: str) -> bytes | None:
    """A PNG of the loss at each step and its running mean; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    steps, values = np.arange(1, len(losses) + 1), np.asarray(losses)
    width = max(1, round(SMOOTHED * len(values)))
    figure = Figure(figsize=(7, 3.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9db8d9", linewidth=1, label="each step")
    if width > 1:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color="#1f4e8c", linewidth=2, label=f"mean of {width} steps")
        axes.legend(frameon=False)
    axes.set(xlabel="optimizer step", ylabel="loss (nats an answer token)", title=title)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
