"""The strategy `interlace-pooled`: the domain-aware paper's own reading of INTERLACE, as its baseline."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.strategies.pooled import POOLED_NEEDS, Side, pseudo_samples, refuse_degenerate
from hf_layerprune.strategies.strategy import Selection, required
from hf_layerprune.strategies.triplets import drop_by_triplets


@dataclass(frozen=True)
class InterlacePooledParameters:
    """The side of a layer that h_l stands for. With its input S_l compares what goes into layer l with what goes into the next."""

    activations: Side = field(default="input", metadata={"help": "side of a layer that represents it, input or output"})


class InterlacePooledStrategy:
    """Triplets by R = (S_l + S_{l+1}) / 2; in each the layer with the higher S goes (domain-aware paper, section 4.3).

    Fine-tuning is the same for all of that paper's methods, so nothing is tuned or frozen here.
    """

    name = "interlace-pooled"
    paper = "Khaki et al. 2026, arXiv 2603.20275, section 4.3 (after INTERLACE)"
    score_meaning = "S, mean cosine of pooled activations with the next layer's; the last layer has none; in a triplet the higher goes"
    needs = POOLED_NEEDS
    parameters = InterlacePooledParameters

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: InterlacePooledParameters) -> Selection:
        """Remove k free layers, at most one of each triplet, never its third."""
        similarity = adjacent_cosine(pseudo_samples(required(statistics), parameters.activations))
        scores = dict(enumerate(similarity.tolist()))
        triplets = dict(enumerate(((similarity[:-1] + similarity[1:]) / 2).tolist()))
        choice = drop_by_triplets(triplets, scores, free, k)
        return Selection(scores, choice.drop, relaxed=choice.relaxed, strict_drop=choice.strict_drop)


def adjacent_cosine(features: Float[np.ndarray, "layer task hidden"]) -> Float[np.ndarray, "pair"]:
    """S: entry l is the mean over tasks of cos(h_l, h_{l+1})."""
    lengths = np.linalg.norm(features, axis=2)
    refuse_degenerate(lengths.min(axis=1), "its pooled activations are zero for a task")
    return np.asarray(((features[:-1] * features[1:]).sum(2) / (lengths[:-1] * lengths[1:])).mean(1))
