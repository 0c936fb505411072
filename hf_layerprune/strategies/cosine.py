"""`math`, `nonmath` and `mixed`: remove the layers that change the hidden states of some domains least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.option import option
from hf_layerprune.artifacts.prompts import Domain
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.strategy import Evidence, NoParameters, Selection

EPSILON = 1e-8  # keeps eq. 8 finite where all layers score the same


@dataclass(frozen=True)
class CosineStrategy:
    """Rank by a weighted mean of domains' normalised input-output cosines (domain-aware paper, eq. 6 to 9), at fixed weights."""

    name: str
    weights: Mapping[Domain, float]
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 3.4"
    parameters = NoParameters

    @property
    def score_meaning(self) -> str:
        named = " + ".join(domain if weight == 1 else f"{weight:g} * {domain}" for domain, weight in self.weights.items())
        return f"{named} cosine of layer input and output, z-normalised over the free layers (eq. 8); the highest go"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(f"{domain}.cosine" for domain in self.weights)

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: NoParameters) -> Selection:
        """Remove the k free layers with the highest score."""
        scores = redundancy(evidence.statistics, self.weights, free)
        return Selection(scores, most_redundant(scores, free, k))


@dataclass(frozen=True)
class MixedParameters:
    """alpha of eq. 9; raises UsageError outside 0 to 1."""

    alpha: float = option(0.7, "weight of the non-math domain, 0 to 1 (0.7 as in the paper)")

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha}: expected a number between 0 (math only) and 1 (non-math only), such as 0.7.")


class MixedStrategy:
    """Rank by R = alpha S_nonmath + (1 - alpha) S_math, both normalised (domain-aware paper, eq. 9)."""

    name = "mixed"
    paper = "Khaki et al. 2026, arXiv 2603.20275, eq. 9"
    score_meaning = "R = alpha * nonmath + (1 - alpha) * math, of cosines z-normalised over the free layers (eq. 9); the highest go"
    needs = frozenset({"math.cosine", "nonmath.cosine"})
    parameters = MixedParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: MixedParameters) -> Selection:
        """Remove the k free layers with the highest R."""
        scores = redundancy(evidence.statistics, {"nonmath": parameters.alpha, "math": 1 - parameters.alpha}, free)
        return Selection(scores, most_redundant(scores, free, k))


def redundancy(statistics: LayerStatistics, weights: Mapping[Domain, float], free: Sequence[int]) -> dict[int, float]:
    """The weighted sum of the domains' normalised cosines, for each free layer; a domain of weight 0 is not read.

    Raises ArtifactError if the statistics lack a domain.
    """
    parts = [weight * normalise(statistics.cosine(domain)[list(free)]) for domain, weight in weights.items() if weight]
    return dict(zip(free, np.sum(parts, axis=0).tolist(), strict=True))


def normalise(scores: Float[np.ndarray, "layer"]) -> Float[np.ndarray, "layer"]:
    """The z-scores of the free layers' scores, with the population deviation (domain-aware paper, eq. 8)."""
    return np.asarray((scores - scores.mean()) / (scores.std() + EPSILON))


def most_redundant(scores: Mapping[int, float], free: Sequence[int], k: int) -> tuple[int, ...]:
    """The k free layers with the highest scores, ascending; of equal ones the deeper goes.

    Raises StrategyError if fewer than k free layers have a score.
    """
    ranked = sorted((layer for layer in free if layer in scores), key=lambda layer: (scores[layer], layer), reverse=True)
    if len(ranked) < k:
        raise StrategyError(f"the budget asks for {k} layers, but only {len(ranked)} free layers have a score. Lower the budget.")
    return tuple(sorted(ranked[:k]))
