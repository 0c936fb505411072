"""The strategy `mixed`: a weighted mean of the two domains' redundancies."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import UsageError
from hf_layerprune.strategies.ranking import most_redundant, normalise
from hf_layerprune.strategies.strategy import Selection, required


@dataclass(frozen=True)
class MixedParameters:
    """alpha of eq. 9; raises UsageError outside 0 to 1."""

    alpha: float = field(default=0.7, metadata={"help": "weight of the non-math domain, 0 to 1 (0.7 as in the paper)"})

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

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: MixedParameters) -> Selection:
        """Remove the k free layers with the highest R."""
        measured, alpha = required(statistics), parameters.alpha
        math, nonmath = (normalise(measured.cosine(domain), free) for domain in ("math", "nonmath"))
        scores = {layer: alpha * nonmath[layer] + (1 - alpha) * math[layer] for layer in free}
        return Selection(scores, most_redundant(scores, free, k))
