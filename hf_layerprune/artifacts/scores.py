"""Scores in [0, 1] of one model, or of two on the same samples: sums are kept, and means, errors and tests follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from hf_layerprune.errors import ArtifactError

ROUNDING = 1e-9  # of sums of scores, relative
SIGNIFICANT = 0.05
FLIPS, EXACT_FLIPS = 20_000, 12
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Tally:
    """The scores of one model; ArtifactError for sums that no scores in [0, 1] have."""

    samples: int  # how many it answered
    total: float  # the sum of its scores; the number of correct answers where each score is 0 or 1
    truncated: int  # how many answers the token budget ended
    squares: float | None = None  # the sum of the squared scores; None where each score is 0 or 1

    def __post_init__(self) -> None:
        counts = (self.samples, self.truncated, *((self.total,) if self.squares is None else ()))
        if any(type(value) is not int for value in counts) or not 0 <= max(self.total, self.truncated) <= self.samples:
            raise ArtifactError(f"invalid score: {self.total!r} correct or {self.truncated!r} truncated of {self.samples!r} samples.")
        if min(counts) < 0:
            raise ArtifactError(f"invalid score: sample counts must be non-negative integers, got {min(counts)}.")
        if self.squares is not None:
            slack = ROUNDING * max(self.samples, 1)  # (sum s)^2 / n <= sum s^2 <= sum s, up to rounding
            if self.squares > self.total + slack or self.squares * self.samples < self.total**2 - slack * self.samples:
                raise ArtifactError(f"invalid score: {self.squares!r} cannot be the sum of squares of scores with the sum {self.total!r}.")

    @property
    def binary(self) -> bool:
        """Whether each score is 0 or 1."""
        return self.squares is None

    @property
    def mean(self) -> float:
        """The mean score; nan without samples."""
        return self.total / self.samples if self.samples else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean; sqrt(p (1 - p) / n) for scores of 0 and 1."""
        return standard_error(self.total, self.total if self.squares is None else self.squares, self.samples)

    @property
    def accuracy(self) -> float:
        """The mean score in %: of scores of 0 and 1 the share of correct answers."""
        return 100 * self.total / self.samples if self.samples else math.nan

    @property
    def error(self) -> float:
        """The standard error in points of %."""
        return 100 * self.standard_error

    @property
    def spread(self) -> tuple[str, float]:
        """How sure the accuracy is, in points of %: `±` and the standard error; where it is 0 or 100, whose standard error is 0 by its
        formula, `≤` or `≥` and the bound of the 95 % Wilson interval (Wilson 1927): z^2 / (n + z^2) away."""
        if self.binary and self.total in (0, self.samples):
            bound = 100 * _Z * _Z / (self.samples + _Z * _Z)
            return ("≤", bound) if self.total == 0 else ("≥", 100 - bound)
        return "±", self.error

    def to_dict(self) -> dict[str, Any]:
        sums = {"correct": self.total} if self.binary else {"total": self.total, "squares": self.squares}
        means = {"mean": number(self.mean), "standard_error": number(self.standard_error)}
        return {"samples": self.samples, **sums, "truncated": self.truncated, **means}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Tally:
        if "correct" in value:
            return cls(value["samples"], value["correct"], value["truncated"])
        return cls(value["samples"], float(value["total"]), value["truncated"], float(value["squares"]))


@dataclass(frozen=True)
class Row:
    """The scores on one subtask, or on a whole task; ArtifactError where the comparison does not fit the scores."""

    task: str
    subtask: str | None  # None for the whole task
    unusable: int  # samples that count for no model, since an image or a record could not be used
    model: Tally
    other: Tally | None = None  # of the model it is compared with, on the same samples
    gained: int = 0  # samples on which the model scored higher than the other
    lost: int = 0  # and lower
    squares: float | None = None  # the sum of the squared differences; None where each score is 0 or 1: gained + lost
    flip_p: float | None = None  # p value of the sign-flip test; None where each score is 0 or 1: McNemar's

    def __post_init__(self) -> None:
        counts = (self.unusable, self.gained, self.lost)
        if any(type(value) is not int or value < 0 for value in counts):
            raise ArtifactError(f"{self.name}: sample counts must be non-negative integers, got {counts}.")
        if not self._pairs_fit():
            raise ArtifactError(f"{self.name}: the paired comparison does not fit the scores of both models.")

    def _pairs_fit(self) -> bool:
        if self.other is None:
            return self.gained == self.lost == 0 and self.squares is None and self.flip_p is None
        if self.other.samples != self.model.samples or self.gained + self.lost > self.model.samples:
            return False
        if self.binary:
            exact = self.squares is None and self.flip_p is None
            return exact and self.model.total - self.other.total == self.gained - self.lost and self.gained <= self.model.total
        return self.squares is not None and self.flip_p is not None and self.squares >= 0 and 0 < self.flip_p <= 1

    @property
    def name(self) -> str:
        return self.task if self.subtask is None else self.subtask

    @property
    def binary(self) -> bool:
        """Whether each score of both models is 0 or 1."""
        return self.model.binary and (self.other is None or self.other.binary)

    @property
    def difference(self) -> float:
        """Accuracy minus the other's, in points of % (domain-aware paper, Delta abs); nan without another."""
        return self.model.accuracy - self.other.accuracy if self.other else math.nan

    @property
    def relative(self) -> float:
        """The difference in % of the other's accuracy (Delta rel); nan where that is 0."""
        return 100 * self.difference / self.other.accuracy if self.other and self.other.total else math.nan

    @property
    def difference_error(self) -> float:
        """The standard error of the difference over the same samples, in points of %."""
        total = self.model.total - self.other.total if self.other else 0
        squares = self.gained + self.lost if self.squares is None else self.squares
        return 100 * standard_error(total, squares, self.model.samples)

    @property
    def p(self) -> float:
        """Of the exact McNemar test, or of the sign-flip test where scores lie between 0 and 1; not corrected for other rows."""
        return mcnemar(self.gained, self.lost) if self.flip_p is None else self.flip_p

    @property
    def cell(self) -> str:
        """As the domain-aware paper writes it: `24.88 (-15.59, -38.5%)`, the accuracy alone without another model."""
        relative = "n/a" if math.isnan(self.relative) else f"{self.relative:+.1f}%"
        return f"{self.model.accuracy:.2f}" + (f" ({self.difference:+.2f}, {relative})" if self.other else "")

    def to_dict(self, p_holm: float, verdict: str) -> dict[str, Any]:
        """What was counted and what follows from it; p_holm, verdict: what the report makes of the difference."""
        found: dict[str, Any] = {"unusable": self.unusable, "model": self.model.to_dict()}
        if self.other is None:
            return found
        squares = {} if self.squares is None else {"squares": self.squares}
        paired = {
            "gained": self.gained,
            "lost": self.lost,
            **squares,
            "difference": number(self.difference / 100),
            "relative": number(self.relative / 100),
            "standard_error": number(self.difference_error / 100),
            "test": "sign-flip" if self.flip_p is not None else "mcnemar",
            "p": self.p,
            "p_holm": p_holm,
            "verdict": verdict,
        }
        return found | {"against": self.other.to_dict(), "paired": paired, "cell": self.cell}

    @classmethod
    def from_dict(cls, task: str, subtask: str | None, value: dict[str, Any]) -> Row:
        model = Tally.from_dict(value["model"])
        if value.get("against") is None:
            return cls(task, subtask, value["unusable"], model)
        paired = value["paired"]
        flip = (float(paired["squares"]), float(paired["p"])) if paired["test"] == "sign-flip" else (None, None)
        return cls(task, subtask, value["unusable"], model, Tally.from_dict(value["against"]), paired["gained"], paired["lost"], *flip)


def number(value: float) -> float | None:
    """The value for JSON: null instead of nan."""
    return None if math.isnan(value) else value


def standard_error(total: float, squares: float, samples: int) -> float:
    """Of a mean over samples, sqrt((mean square - mean^2) / n): of scores, or of differences of two models' scores.

    total, squares: the sums of the values and of their squares. nan without samples.
    """
    if samples == 0:
        return math.nan
    mean = total / samples
    return math.sqrt(max(squares / samples - mean * mean, 0.0) / samples)


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
