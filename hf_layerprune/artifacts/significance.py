"""How sure a score is, and a difference between two models that answered the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

SIGNIFICANT = 0.05
FLIPS, EXACT_FLIPS = 20_000, 12
_Z = NormalDist().inv_cdf(0.975)


def standard_error(total: float, squares: float, samples: int) -> float:
    """Of a mean over samples, sqrt((mean square - mean^2) / n): of scores, or of differences of two models' scores.

    total, squares: the sums of the values and of their squares. nan without samples.
    """
    if samples == 0:
        return math.nan
    mean = total / samples
    return math.sqrt(max(squares / samples - mean * mean, 0.0) / samples)


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


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
    """The two-sided sign-flip test of paired differences: how often their sum is as far from 0 when each sign is a fair coin's.

    differences: a sample's score by this model minus that by the other. Exact, over all signs, for up to 12 differences that are not
    0; else over FLIPS draws of a generator seeded with `seed`, the observed signs counted as one. Of differences of 1 and -1 it is the
    McNemar test.
    """
    values = np.array([value for value in differences if value])
    if not len(values):
        return 1.0
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()  # sums in another order differ by rounding
    if len(values) <= EXACT_FLIPS:
        signs = 1 - 2 * (np.arange(1 << len(values))[:, None] >> np.arange(len(values)) & 1)
        return float(np.mean(np.abs(signs @ values) >= observed))
    random = np.random.default_rng(seed)
    draws = (1 - 2 * random.integers(0, 2, size=(FLIPS // 100, len(values)), dtype=np.int8) for _ in range(100))
    return (1 + sum(int(np.sum(np.abs(signs @ values) >= observed)) for signs in draws)) / (1 + FLIPS)


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
