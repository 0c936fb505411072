"""`interlace`: INTERLACE's Algorithm 1, its spacing rule by triplets, and what happens where the triplets run out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.strategy import Evidence, NoParameters, Selection

Choice = tuple[Fraction, tuple[int, ...]]  # the sum of the scores, then the layers, deepest first


class InterlaceStrategy:
    """Remove one of the first two layers of each redundant triplet, tune the other, freeze all else (INTERLACE, Algorithm 1).

    Both similarities are means over all tokens of all domains (its eq. 1). A relaxed choice tunes the kept layer after each
    removed one.
    """

    name = "interlace"
    paper = "Madinei et al. 2025, arXiv 2511.19676, Algorithm 1"
    score_meaning = "S_layer, cosine of layer input and output over all tokens; triplets are chosen by S_triplet, in each the higher goes"
    needs = frozenset({"math.token_cosine", "nonmath.token_cosine", "math.triplet_cosine", "nonmath.triplet_cosine"})
    parameters = NoParameters

    def select(self, evidence: Evidence, free: tuple[int, ...], k: int, parameters: NoParameters) -> Selection:
        """Remove k free layers, and name for every kept layer whether healing tunes or freezes it."""
        measured = evidence.statistics
        scores = dict(enumerate(measured.token_cosine().tolist()))
        choice = drop_by_triplets(dict(enumerate(measured.triplet_cosine().tolist())), scores, free, k)
        # The last layer has none after it; it can only be removed where the protection was lifted.
        tune = tuple(sorted(layer for layer in choice.tune if layer in scores))
        freeze = tuple(layer for layer in scores if layer not in {*choice.drop, *tune})
        return replace(choice, tune=tune, freeze=freeze)


def drop_by_triplets(triplets: Mapping[int, float], layers: Mapping[int, float], free: Sequence[int], k: int) -> Selection:
    """Remove one of the first two layers of each of k triplets, the more redundant, of equal ones the deeper (INTERLACE, Algorithm 1).

    triplets: the scores by first layer. layers: the scores of single layers. Neither paper says what happens when fewer than k
    triplets fit. Ours: the k free layers, no two adjacent, with the greatest sum of `layers`. StrategyError if there are no such k.
    In the selection `tune` holds for each removed layer the neighbour that is tuned in its place.
    """
    firsts = greedy_triplets(triplets, free, k)
    drop = tuple(sorted(first if layers[first] > layers[first + 1] else first + 1 for first in firsts))
    if len(drop) == k:
        return Selection(layers, drop, tuple(2 * first + 1 - gone for first, gone in zip(sorted(firsts), drop, strict=True)))
    candidates = {layer: layers[layer] for layer in free if layer in layers}
    relaxed = spaced_choice(candidates, k)
    if relaxed is None:
        most = max(count for count in range(k) if spaced_choice(candidates, count) is not None)
        raise StrategyError(
            f"the budget asks for {k} layers, but at most {most} of the free layers can go with no two of them adjacent. "
            "Lower the budget, protect fewer layers, or choose a method without a spacing rule."
        )
    return Selection(layers, relaxed, tuple(layer + 1 for layer in relaxed), relaxed=True, strict_drop=drop)


def greedy_triplets(scores: Mapping[int, float], free: Sequence[int], k: int) -> tuple[int, ...]:
    """The first layers of up to k triplets, best score first, of equal ones the deeper.

    A triplet is eligible if its three layers are all free; chosen ones share no layer but may be neighbours.
    """
    allowed, chosen = set(free), list[int]()
    eligible = [first for first in scores if allowed.issuperset((first, first + 1, first + 2))]
    for first in sorted(eligible, key=lambda first: (scores[first], first), reverse=True):
        if len(chosen) < k and all(abs(first - other) > 2 for other in chosen):
            chosen.append(first)
    return tuple(chosen)


def spaced_choice(scores: Mapping[int, float], k: int) -> tuple[int, ...] | None:
    """The k layers of `scores`, no two adjacent, with the greatest sum of scores, ascending; None if there are no such k.

    Sums are exact (a float is a fraction), so that equal ones are seen as equal; of those the deeper set is taken: the one
    whose deepest layer is deeper, then the next, and so on. Dynamic programming, O(L k) steps for L layers.
    """
    layers = sorted(scores)
    # best[i][j]: the best choice of j among the first i layers. `Choice` sorts by sum, then by depth, and adding one deeper
    # layer to two choices keeps their order, so the best whole is made of best parts.
    best: list[list[Choice | None]] = [[(Fraction(0), ()), *[None] * k]]
    for i, layer in enumerate(layers):
        apart = best[i - 1] if i and layers[i - 1] == layer - 1 else best[i]
        taken = [None, *(choice and (choice[0] + Fraction(scores[layer]), (layer, *choice[1])) for choice in apart[:k])]
        best.append([max((one for one in pair if one is not None), default=None) for pair in zip(best[i], taken, strict=True)])
    chosen = best[-1][k]
    return None if chosen is None else chosen[1][::-1]
