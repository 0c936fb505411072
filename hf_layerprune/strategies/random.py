"""`random`: the control that every ranking has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError
from hf_layerprune.strategies.strategy import Evidence, Selection


@dataclass(frozen=True)
class RandomParameters:
    """The seed; raises UsageError if negative."""

    seed: int = option(0, "which draw, 0 or more")

    def __post_init__(self) -> None:
        if self.seed < 0:  # Random takes the absolute value, so -1 would silently be the draw of 1
            raise UsageError(f"seed is {self.seed}: expected 0 or more.")


class RandomStrategy:
    """Remove free layers drawn uniformly (domain-aware paper, section 4.3). A larger budget removes the same layers and more."""

    name = "random"
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 4.3"
    score_meaning = "none: the layers are drawn at random"
    needs = frozenset[str]()
    parameters = RandomParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: RandomParameters) -> Selection:
        """Draw k of the free layers."""
        draw = Random(parameters.seed)
        # Python promises the sequence of random() for a seed across versions, but not that of sample() or shuffle().
        order = sorted(free, key=lambda _: draw.random())
        return Selection({}, tuple(sorted(order[:k])))
