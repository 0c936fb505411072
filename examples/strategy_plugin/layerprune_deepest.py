"""The strategy `deepest`: remove the deepest layers, a baseline that needs no statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.strategy import Evidence, Selection


@dataclass(frozen=True)
class DeepestParameters:
    """How many of the deepest free layers stay; raises UsageError if negative."""

    spare: int = field(default=0, metadata={"help": "free layers that stay at the deep end, 0 or more"})

    def __post_init__(self) -> None:
        if self.spare < 0:
            raise UsageError(f"spare is {self.spare}: expected 0 or more.")


class DeepestStrategy:
    """Remove the deepest free layers (the simpler strategy of Gromov et al. 2024); the last layer is protected by default."""

    name = "deepest"
    paper = "Gromov et al. 2024, arXiv 2403.17887, its simpler strategy"
    score_meaning = "the layer's own index; the highest below the spared ones go"
    needs = frozenset[str]()
    parameters = DeepestParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: DeepestParameters) -> Selection:
        """Remove the k deepest of the free layers below the spared ones."""
        candidates = free[: len(free) - parameters.spare]
        if len(candidates) < k:
            raise StrategyError(f"{len(free)} layers are free and {parameters.spare} spared: fewer than the {k} to remove are left")
        return Selection({layer: float(layer) for layer in candidates}, candidates[-k:])


DEEPEST = DeepestStrategy()
