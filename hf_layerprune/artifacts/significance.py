"""How sure a score is, and a difference between two models that answered the same samples. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

SIGNIFICANT = 0.05
_Z = NormalDist().inv_cdf(0.975)


def binomial_error(correct: int, samples: int) -> float:
    """The standard error of a share of correct answers, sqrt(p (1 - p) / n), as a share; 0 samples have none and give nan."""
    if samples == 0:
        return math.nan
    share = correct / samples
    return math.sqrt(share * (1 - share) / samples)


def wilson_interval(correct: int, samples: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share of correct answers, as shares; nan without samples (Wilson 1927).

    The shares p for which |correct / n - p| <= 1.96 sqrt(p (1 - p) / n). Where the share is 0 or 1 it still has a width.
    """
    if samples == 0:
        return math.nan, math.nan
    share, weight = correct / samples, _Z * _Z / samples
    middle = share + weight / 2
    half = math.sqrt(weight * (share * (1 - share) + weight / 4))
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return (0.0 if correct == 0 else low), (1.0 if correct == samples else high)


def paired_error(gained: int, lost: int, samples: int) -> float:
    """The standard error of the mean over samples of a difference that is 1 (gained), -1 (lost) or 0, as a share."""
    if samples == 0:
        return math.nan
    mean = (gained - lost) / samples
    return math.sqrt(max((gained + lost) / samples - mean * mean, 0.0) / samples)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided McNemar test: the chance that `gained + lost` fair coins fall at least as unevenly as here.

    gained: samples that only this model answered correctly; lost: those that only the other one did. 1 if there are neither.
    """
    trials, fewer = gained + lost, min(gained, lost)
    if trials == 0:
        return 1.0
    tail = term = 1  # whole numbers, so exact for any number of samples
    for heads in range(fewer):
        term = term * (trials - heads) // (heads + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << trials))


def holm(values: Sequence[float]) -> list[float]:
    """The p values of one family of tests after Holm's step-down correction (Holm 1979), in the order given.

    The chance that any test of the family finds a difference where there is none stays below the level, whatever depends on what.
    """
    corrected = [0.0] * len(values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        worst = max(worst, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = worst
    return corrected
