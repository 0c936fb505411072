"""What a strategy is, ours or another package's: a way to choose layers from evidence about a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.display import Readable
from hf_layerprune.artifacts.prompts import DOMAINS, Domain
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import StrategyError

QUANTITIES = ("cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool")
LOSS, WEIGHTS = "loss", "weights"

Weights = Mapping[str, Float[np.ndarray, "..."]]
Given = TypeVar("Given")


@dataclass(frozen=True, repr=False)
class Selection(Readable):
    """What a strategy decided. Layers are indices of the source, in any order."""

    scores: Mapping[int, float]  # a finite number per layer, in the paper's own orientation; a layer may have none
    drop: tuple[int, ...]  # the layers to remove, exactly as many as asked for
    tune: tuple[int, ...] = ()  # kept layers that healing trains (INTERLACE)
    freeze: tuple[int, ...] = ()  # kept layers that healing leaves as they are, disjoint from `tune`
    relaxed: bool = False  # the strategy's spacing rule could not reach the budget and was widened
    strict_drop: tuple[int, ...] = ()  # what the rule reached


@dataclass(frozen=True)
class Evidence:
    """What is known of a model when its layers are chosen. A strategy gets what its `needs` name; all else raises StrategyError."""

    needs: frozenset[str]
    measured: LayerStatistics | None = None
    losses: Callable[[frozenset[int], str], Mapping[Domain, float]] | None = None
    weights: Callable[[int], Weights] | None = None

    @property
    def statistics(self) -> LayerStatistics:
        """What a probe measured."""
        entry = next(iter(self.needs - {LOSS, WEIGHTS}), "math.cosine")
        return self._given(self.measured, "statistics", entry)

    def loss(self, drop: frozenset[int], repair: str = "none") -> Mapping[Domain, float]:
        """The loss per domain of the model without the layers `drop`, after a repair of what is left; nats a token."""
        return self._given(self.losses, "losses of shortened models", LOSS)(drop, repair)

    def layer_weights(self, layer: int) -> Weights:
        """The tensors of a decoder layer, by the rest of their names ("mlp.up_proj.weight")."""
        return self._given(self.weights, "the layers' weights", WEIGHTS)(layer)

    def _given(self, value: Given | None, what: str, entry: str) -> Given:
        if entry not in self.needs:
            raise StrategyError(f'the strategy reads {what} without asking for them: add an entry such as "{entry}" to its needs.')
        if value is None:
            raise StrategyError(f"this strategy needs {what}, but got none. Probe the model for statistics, or use another method.")
        return value


@dataclass(frozen=True)
class NoParameters:
    """The parameters of a strategy that has none."""


@runtime_checkable
class Strategy(Protocol):
    """A way to choose which layers go. It sees evidence, never a model, and holds no state."""

    @property
    def name(self) -> str:
        """The name on the command line; for a strategy of another package also the name of its entry point."""

    @property
    def paper(self) -> str:
        """A short citation, or "ours"."""

    @property
    def score_meaning(self) -> str:
        """What the scores are and which end goes first; written into the plan."""

    @property
    def needs(self) -> frozenset[str]:
        """What it reads: statistics as "<domain>.<quantity>" with a quantity of `QUANTITIES`, "loss", "weights"; empty: nothing."""

    @property
    def parameters(self) -> type:
        """A frozen dataclass: every field int, float, str, bool or Literal, with a default and `metadata={"help": ...}`."""

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: Any) -> Selection:
        """Choose exactly `k` of the `free` layers (ascending, at least k of them); `parameters` is an instance of the type above.

        Raises StrategyError if k cannot be reached.
        """


def needed_domains(strategy: Strategy) -> tuple[Domain, ...]:
    """The domains whose statistics a strategy reads: the built-in ones first, then by name."""
    named = {need.partition(".")[0] for need in strategy.needs - {LOSS, WEIGHTS}}
    return (*(domain for domain in DOMAINS if domain in named), *sorted(named.difference(DOMAINS)))


def unknown_needs(strategy: Strategy) -> tuple[str, ...]:
    """The entries of `needs` that name neither a known quantity nor "loss" or "weights", sorted. A domain may have any name."""
    parts = {need: need.partition(".") for need in strategy.needs - {LOSS, WEIGHTS}}
    return tuple(sorted(need for need, (domain, _, quantity) in parts.items() if not domain or quantity not in QUANTITIES))
