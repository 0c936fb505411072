"""INTERLACE's spacing rule, shared by both Interlaces: greedy triplets without overlap, and what happens where they run out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.spacing import most_spaced, spaced_choice


@dataclass(frozen=True)
class SpacedDrop:
    """The layers to remove, ascending, and for each the neighbour that makes up for it, as INTERLACE tunes them.

    relaxed: there were too few separate triplets, and the layers are merely not adjacent; strict_drop: those of the triplets.
    """

    drop: tuple[int, ...]
    partners: tuple[int, ...]
    relaxed: bool = False
    strict_drop: tuple[int, ...] = ()


def drop_by_triplets(triplets: Mapping[int, float], layers: Mapping[int, float], free: Sequence[int], k: int) -> SpacedDrop:
    """Remove one layer from each of k triplets (INTERLACE, Algorithm 1); `triplets` maps a first layer to the triplet's score.

    Neither paper says what happens when fewer than k triplets fit. Ours: the k free layers, no two adjacent, with the
    greatest sum of `layers`, the single-layer scores. Raises StrategyError if there are no such k.
    """
    firsts = greedy_triplets(triplets, free, k)
    drop = tuple(sorted(more_redundant(first, layers) for first in firsts))
    if len(drop) == k:
        return SpacedDrop(drop, tuple(2 * first + 1 - gone for first, gone in zip(sorted(firsts), drop, strict=True)))
    candidates = {layer: layers[layer] for layer in free if layer in layers}
    relaxed = spaced_choice(candidates, k)
    if relaxed is None:
        raise StrategyError(
            f"the budget asks for {k} layers, but at most {most_spaced(candidates)} of the free layers can go with no two of them "
            f"adjacent. Lower the budget, protect fewer layers, or choose a method without a spacing rule."
        )
    return SpacedDrop(relaxed, tuple(layer + 1 for layer in relaxed), relaxed=True, strict_drop=drop)


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


def more_redundant(first: int, layers: Mapping[int, float]) -> int:
    """Of the first two layers of a triplet the one with the higher score, on equality the deeper (Algorithm 1, line 10)."""
    return first if layers[first] > layers[first + 1] else first + 1
