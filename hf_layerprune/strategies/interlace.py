"""The strategy `interlace`: INTERLACE's Algorithm 1, with the layers to tune and to freeze afterwards."""

from __future__ import annotations

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.strategies.strategy import NoParameters, Selection, required
from hf_layerprune.strategies.triplets import drop_by_triplets


class InterlaceStrategy:
    """Remove one of the first two layers of each redundant triplet, tune the other, freeze all else (INTERLACE, Algorithm 1).

    Both similarities are means over all tokens of both domains (its eq. 1). A relaxed choice (see `triplets`) tunes the kept
    layer after each removed one.
    """

    name = "interlace"
    paper = "Madinei et al. 2025, arXiv 2511.19676, Algorithm 1"
    score_meaning = "S_layer, cosine of layer input and output over all tokens; triplets are chosen by S_triplet, in each the higher goes"
    needs = frozenset({"math.token_cosine", "nonmath.token_cosine", "math.triplet_cosine", "nonmath.triplet_cosine"})
    parameters = NoParameters

    def select(self, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: NoParameters) -> Selection:
        """Remove k free layers, and name for every kept layer whether healing tunes or freezes it."""
        measured = required(statistics)
        scores = dict(enumerate(measured.token_cosine().tolist()))
        choice = drop_by_triplets(dict(enumerate(measured.triplet_cosine().tolist())), scores, free, k)
        # The last layer has none after it; it can only be removed where the protection was lifted.
        tune = tuple(sorted(layer for layer in choice.partners if layer in scores))
        freeze = tuple(layer for layer in scores if layer not in {*choice.drop, *tune})
        return Selection(scores, choice.drop, tune, freeze, choice.relaxed, choice.strict_drop)
