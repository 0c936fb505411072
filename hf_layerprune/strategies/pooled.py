"""`cka` and `interlace-pooled`: compare each layer's mean-pooled activations with its neighbour's (domain-aware paper, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.option import option
from hf_layerprune.artifacts.prompts import DOMAINS
from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.cosine import most_redundant
from hf_layerprune.strategies.interlace import drop_by_triplets
from hf_layerprune.strategies.strategy import Evidence, Selection

Side = Literal["input", "output"]
Features = Float[np.ndarray, "task layer hidden"]  # of each probing task the mean-pooled activations of a layer
NEEDS = frozenset(f"{domain}.{side}_pool" for domain in DOMAINS for side in ("input", "output"))


@dataclass(frozen=True)
class CkaParameters:
    """The side of a layer whose pooled vectors represent it; the paper leaves it open."""

    activations: Side = option("output", "side of a layer that represents it, output or input")


class CkaStrategy:
    """Rank layer l + 1 by the linear CKA of layers l and l + 1 over the nine probing tasks."""

    name = "cka"
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 4.3 (CKA: Kornblith et al. 2019)"
    score_meaning = "linear CKA with the layer before; layer 0 has none; the highest go"
    needs = NEEDS
    parameters = CkaParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: CkaParameters) -> Selection:
        """Remove the k free layers most similar to their predecessor; layer 0 never goes, for it has none."""
        scores = dict(enumerate(adjacent_cka(evidence.statistics.pooled(parameters.activations)).tolist(), start=1))
        return Selection(scores, most_redundant(scores, free, k))


@dataclass(frozen=True)
class InterlacePooledParameters:
    """The side of a layer that h_l stands for. With its input S_l compares what goes into layer l with what goes into the next."""

    activations: Side = option("input", "side of a layer that represents it, input or output")


class InterlacePooledStrategy:
    """Triplets by R = (S_l + S_{l+1}) / 2; in each the layer with the higher S goes: that paper's own reading of INTERLACE.

    Fine-tuning is the same for all of that paper's methods, so nothing is tuned or frozen here.
    """

    name = "interlace-pooled"
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 4.3 (after INTERLACE)"
    score_meaning = "S, mean cosine of pooled activations with the next layer's; the last layer has none; in a triplet the higher goes"
    needs = NEEDS
    parameters = InterlacePooledParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: InterlacePooledParameters) -> Selection:
        """Remove k free layers, at most one of each triplet, never its third."""
        similarity = adjacent_cosine(evidence.statistics.pooled(parameters.activations))
        scores = dict(enumerate(similarity.tolist()))
        triplets = dict(enumerate(((similarity[:-1] + similarity[1:]) / 2).tolist()))
        return replace(drop_by_triplets(triplets, scores, free, k), tune=())


def adjacent_cka(features: Features) -> Float[np.ndarray, "pair"]:
    """Linear CKA of each layer with the next: entry l is CKA(X_l, X_{l+1}), between 0 and 1; X_l has one row per probing task.

    With K = X X' of centred features, ||X'Y||_F^2 = <K_x, K_y>: nine by nine instead of hidden by hidden.
    """
    layers = np.swapaxes(features, 0, 1)
    centred = layers - layers.mean(axis=1, keepdims=True)
    grams = centred @ centred.swapaxes(1, 2)
    norms = np.sqrt((grams**2).sum((1, 2)))
    _refuse_zero(norms, "its pooled activations are the same for every task")
    return np.asarray((grams[:-1] * grams[1:]).sum((1, 2)) / (norms[:-1] * norms[1:]))


def adjacent_cosine(features: Features) -> Float[np.ndarray, "pair"]:
    """S: entry l is the mean over tasks of cos(h_l, h_{l+1})."""
    layers = np.swapaxes(features, 0, 1)
    lengths = np.linalg.norm(layers, axis=2)
    _refuse_zero(lengths.min(axis=1), "its pooled activations are zero for a task")
    return np.asarray(((layers[:-1] * layers[1:]).sum(2) / (lengths[:-1] * lengths[1:])).mean(1))


def _refuse_zero(sizes: Float[np.ndarray, "layer"], what: str) -> None:
    """Raise StrategyError naming the first layer whose size is 0, where a similarity would be 0 / 0."""
    if (zero := np.flatnonzero(sizes == 0)).size:
        raise StrategyError(f"layer {zero[0]} has no similarity to its neighbour: {what}. Probe again, or choose another method.")
