"""The loss curve of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_layerprune.figures.theme import DRAWN, Theme, dress, new_figure, png

SMOOTHED = 0.06  # of the curve: the width of the running mean


def draw_loss(losses: Sequence[float], theme: Theme) -> bytes:
    """The loss of each step and its running mean."""
    steps, values = np.arange(1, len(losses) + 1), np.clip(np.asarray(losses, dtype=float), -DRAWN, DRAWN)
    width = max(1, round(SMOOTHED * len(values)))
    figure = new_figure(theme, 3.0)
    ax = figure.add_subplot()
    dress(ax, theme)
    ax.plot(steps, values, color=theme.kept, lw=1, label="each step")
    if width > 1:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        ax.plot(steps[width - 1 :], mean, color=theme.math, lw=2, label=f"mean of {width} steps")
    ax.set(xlabel="optimizer step", ylabel="loss (nats an answer token)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, labelcolor=theme.ink, fontsize=8)
    return png(figure)
