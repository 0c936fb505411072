"""Rank layers by one score each: the normalisation of the domain-aware paper, and the choice of the k most redundant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from hf_layerprune.errors import StrategyError

EPSILON = 1e-8  # keeps eq. 8 finite where all layers score the same


def normalise(scores: Float[np.ndarray, "layer"], free: Sequence[int]) -> dict[int, float]:
    """Map each free layer to its z-score among the free layers, with the population deviation (domain-aware paper, eq. 8)."""
    values = scores[list(free)]
    return dict(zip(free, ((values - values.mean()) / (values.std() + EPSILON)).tolist(), strict=True))


def most_redundant(scores: Mapping[int, float], free: Sequence[int], k: int) -> tuple[int, ...]:
    """The k free layers with the highest scores, ascending; of equal ones the deeper goes.

    Raises StrategyError if fewer than k free layers have a score.
    """
    candidates = [layer for layer in free if layer in scores]
    if len(candidates) < k:
        raise StrategyError(f"the budget asks for {k} layers, but only {len(candidates)} free layers have a score. Lower the budget.")
    ranked = sorted(candidates, key=lambda layer: (scores[layer], layer), reverse=True)
    return tuple(sorted(ranked[:k]))
