"""What the two methods on mean-pooled activations share: the nine pseudo-samples, and the parameter that says of which side."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.prompts import DOMAINS
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError

Side = Literal["input", "output"]

POOLED_NEEDS = frozenset(f"{domain}.{side}_pool" for domain in DOMAINS for side in ("input", "output"))


def pseudo_samples(statistics: LayerStatistics, side: Side) -> Float[np.ndarray, "layer task hidden"]:
    """Each layer's feature matrix: one row per probing task, its mean-pooled `side` (domain-aware paper, section 4.3)."""
    return np.swapaxes(statistics.pooled(side), 0, 1)


def refuse_degenerate(sizes: Float[np.ndarray, "layer"], what: str) -> None:
    """Raise StrategyError naming the first layer whose size is 0, where a similarity would be 0 / 0."""
    if (bad := np.flatnonzero(sizes == 0)).size:
        raise StrategyError(f"layer {bad[0]} has no similarity to its neighbour: {what}. Probe again, or choose another method.")
