"""The strategy `cka`: remove layers whose representation is that of the layer before."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.strategies.pooled import POOLED_NEEDS, Side, pseudo_samples, refuse_degenerate
from hf_layerprune.strategies.ranking import most_redundant
from hf_layerprune.strategies.strategy import Selection, required


@dataclass(frozen=True)
class CkaParameters:
    """The side of a layer whose pooled vectors represent it; the paper leaves it open."""

    activations: Side = field(default="output", metadata={"help": "side of a layer that represents it, output or input"})


class CkaStrategy:
    """Rank layer l + 1 by the linear CKA of layers l and l + 1 over the nine probing tasks (domain-aware paper, section 4.3)."""

    name = "cka"
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 4.3 (CKA: Kornblith et al. 2019)"
    score_meaning = "linear CKA with the layer before; layer 0 has none; the highest go"
    needs = POOLED_NEEDS
    parameters = CkaParameters

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: CkaParameters) -> Selection:
        """Remove the k free layers most similar to their predecessor; layer 0 never goes, for it has none."""
        similarity = adjacent_cka(pseudo_samples(required(statistics), parameters.activations))
        scores = dict(enumerate(similarity.tolist(), start=1))
        return Selection(scores, most_redundant(scores, free, k))


def adjacent_cka(features: Float[np.ndarray, "layer task hidden"]) -> Float[np.ndarray, "pair"]:
    """Linear CKA of each layer with the next: entry l is CKA(X_l, X_{l+1}), between 0 and 1.

    With K = X X' of centred features, ||X'Y||_F^2 = <K_x, K_y>: nine by nine instead of hidden by hidden.
    """
    centred = features - features.mean(axis=1, keepdims=True)
    grams = centred @ centred.swapaxes(1, 2)
    norms = np.sqrt((grams**2).sum((1, 2)))
    refuse_degenerate(norms, "its pooled activations are the same for every task")
    return np.asarray((grams[:-1] * grams[1:]).sum((1, 2)) / (norms[:-1] * norms[1:]))
