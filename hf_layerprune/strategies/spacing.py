"""Choose layers of which no two are adjacent: exactly, by dynamic programming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

Choice = tuple[Fraction, tuple[int, ...]]  # the sum of the scores, then the layers, deepest first


def spaced_choice(scores: Mapping[int, float], k: int) -> tuple[int, ...] | None:
    """The k layers of `scores`, no two adjacent, with the greatest sum of scores, ascending; None if there are no such k.

    Sums are exact (a float is a fraction), so that equal ones are seen as equal; of those the deeper set is taken: the one
    whose deepest layer is deeper, then the next, and so on. Takes O(L k) steps for L layers.
    """
    layers = sorted(scores)
    # best[i][j]: the best choice of j among the first i layers. `Choice` sorts by sum, then by depth, and adding one deeper
    # layer to two choices keeps their order, so the best whole is made of best parts.
    best: list[list[Choice | None]] = [[(Fraction(0), ()), *[None] * k]]
    for i, layer in enumerate(layers):
        apart = best[i - 1] if i and layers[i - 1] == layer - 1 else best[i]
        taken = [None, *(_extend(choice, layer, scores[layer]) for choice in apart[:k])]
        best.append([_better(*pair) for pair in zip(best[i], taken, strict=True)])
    chosen = best[-1][k]
    return None if chosen is None else chosen[1][::-1]


def most_spaced(layers: Iterable[int]) -> int:
    """How many of the layers can be chosen at most so that no two are adjacent."""
    count, last = 0, -2
    for layer in sorted(layers):
        if layer > last + 1:
            count, last = count + 1, layer
    return count


def _extend(choice: Choice | None, layer: int, score: float) -> Choice | None:
    return None if choice is None else (choice[0] + Fraction(score), (layer, *choice[1]))


def _better(one: Choice | None, other: Choice | None) -> Choice | None:
    return max((choice for choice in (one, other) if choice is not None), default=None)
