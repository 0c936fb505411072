"""The strategies `math` and `nonmath`: remove the layers that change one domain's hidden states least."""

from __future__ import annotations

from dataclasses import dataclass

from hf_layerprune.artifacts.prompts import Domain
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.strategies.ranking import most_redundant, normalise
from hf_layerprune.strategies.strategy import NoParameters, Selection, required


@dataclass(frozen=True)
class DomainStrategy:
    """Rank by the normalised input-output cosine of one domain (domain-aware paper, eq. 6 to 8, section 3.4)."""

    domain: Domain
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 3.4"
    parameters = NoParameters

    @property
    def name(self) -> str:
        return self.domain

    @property
    def score_meaning(self) -> str:
        return f"{self.domain} cosine of layer input and output, z-normalised over the free layers (eq. 8); the highest go"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"{self.domain}.cosine"})

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: NoParameters) -> Selection:
        """Remove the k free layers with the highest normalised cosine."""
        scores = normalise(required(statistics).cosine(self.domain), free)
        return Selection(scores, most_redundant(scores, free, k))
