"""Draw what a pruned folder's records say: the redundancy of every layer on each domain, and which layers went.

    python examples/draw_layer_map.py ./mini-mixed-13L layer-map.png

Needs matplotlib (the extra `plot`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from hf_layerprune import LayerStatistics, PruningPlan

COLORS = {"math": "#0072b2", "nonmath": "#e69f00"}
NAMES = {"math": "math", "nonmath": "general"}


def draw(folder: Path, output: Path) -> None:
    """One minus the cosine of each layer's input and output, with standard errors; removed layers are red, protected ones grey."""
    records = folder / "layerprune"
    plan, statistics = PruningPlan.load(records / "plan.json"), LayerStatistics.load(records / "statistics.safetensors")
    layers = range(plan.layers)
    figure, axes = plt.subplots(figsize=(8, 3.2), dpi=150, layout="constrained")
    for layer in plan.drop:
        axes.axvspan(layer - 0.5, layer + 0.5, color="#d62728", alpha=0.22, lw=0, label="removed" if layer == plan.drop[0] else None)
    for layer in plan.protected:
        axes.axvspan(layer - 0.5, layer + 0.5, color="#888888", alpha=0.18, lw=0, label="protected" if layer == plan.protected[0] else None)
    for domain in statistics.domains:
        error = statistics.cosine_error(domain)
        axes.errorbar(
            layers, 1 - statistics.cosine(domain), error, color=COLORS[domain], marker="o", ms=4, lw=1.5, label=f"{NAMES[domain]} pictures"
        )
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("change: 1 - cosine")
    axes.set_yscale("log")
    axes.set_xticks(list(layers)[:: max(1, plan.layers // 24)])
    axes.set_xlim(-0.5, plan.layers - 0.5)
    axes.set_title(f"{plan.source.id}: {len(plan.drop)} of {plan.layers} layers removed by {plan.strategy}", fontsize=11)
    axes.legend(ncols=4, fontsize=8, loc="upper right")
    axes.grid(axis="y", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a pruned folder whose plan was made from statistics")
    parser.add_argument("output", type=Path, help="the PNG or SVG to write")
    options = parser.parse_args()
    draw(options.folder, options.output)


if __name__ == "__main__":
    main()
