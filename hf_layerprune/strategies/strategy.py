"""What a strategy is: the contract between the planner and every ranking method, ours and third-party ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

from hf_layerprune.artifacts.prompts import DOMAINS, Domain
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError

QUANTITIES = ("cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool")


@dataclass(frozen=True)
class Selection:
    """What a strategy decided. Layers are source indices, in any order.

    scores: a finite number per layer, in the paper's own orientation; a layer that is left out has none;
    drop: the layers to remove, exactly as many as asked for; tune, freeze: INTERLACE's disjoint sets of kept layers;
    relaxed: the strategy's spacing rule could not reach the budget and was widened; strict_drop: what it reached.
    """

    scores: Mapping[int, float]
    drop: tuple[int, ...]
    tune: tuple[int, ...] = ()
    freeze: tuple[int, ...] = ()
    relaxed: bool = False
    strict_drop: tuple[int, ...] = ()


@dataclass(frozen=True)
class NoParameters:
    """The parameters of a strategy that has none."""


@runtime_checkable
class Strategy(Protocol):
    """A way to choose which layers go. Strategies see statistics, never models; they hold no state."""

    @property
    def name(self) -> str:
        """The name on the command line; for a third-party strategy also the name of its entry point."""

    @property
    def paper(self) -> str:
        """A short citation, or "ours"."""

    @property
    def score_meaning(self) -> str:
        """What the scores are and which end goes first; written into the plan."""

    @property
    def needs(self) -> frozenset[str]:
        """The statistics it reads, as "<domain>.<quantity>" with a quantity of `QUANTITIES`; empty: none at all."""

    @property
    def parameters(self) -> type:
        """A frozen dataclass: every field int, float, str, bool or Literal, with a default and `metadata={"help": ...}`."""

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: Any) -> Selection:
        """Choose exactly `k` of the `free` layers (ascending, at least k of them); `parameters` is an instance of the type above.

        `statistics` is None only if `needs` is empty. Raises StrategyError if k cannot be reached.
        """


def needed_domains(strategy: Strategy) -> tuple[Domain, ...]:
    """The domains whose statistics a strategy reads, math first."""
    named = {need.partition(".")[0] for need in strategy.needs}
    return tuple(domain for domain in DOMAINS if domain in named)


def unknown_needs(strategy: Strategy) -> tuple[str, ...]:
    """The entries of `needs` that name no statistic, sorted."""
    known = {f"{domain}.{quantity}" for domain in get_args(Domain) for quantity in QUANTITIES}
    return tuple(sorted(strategy.needs - known))


def required(statistics: LayerStatistics | None) -> LayerStatistics:
    """The statistics, for a strategy that cannot do without; the planner has checked them, a direct caller may not have."""
    if statistics is None:
        raise StrategyError("this strategy needs statistics, but got none: probe the model first.")
    return statistics
