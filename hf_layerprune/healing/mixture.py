"""The order of an epoch: records of several sources, each as often as its weight says, shuffled together by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from jaxtyping import Int

Rows = Int[np.ndarray, "record"]


def mixed(sources: Sequence[Rows], weights: Sequence[Decimal], seed: int) -> Int[np.ndarray, "sample 2"]:
    """Pairs of source and record: of weight 2.5 every record twice, and half of them, drawn uniformly, a third time.

    A source that has a record gives at least one. The same arguments give the same order on every machine: numpy promises that
    RandomState never changes.
    """
    parts = []
    for number, (rows, weight) in enumerate(zip(sources, weights, strict=True)):
        drawn = _weighted(np.asarray(rows, np.int64), weight, _random(f"{seed}/{number}"))
        parts.append(np.stack([np.full_like(drawn, number), drawn], 1))
    every = np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)
    return every[_random(f"{seed}/order").permutation(len(every))]


def _weighted(rows: Rows, weight: Decimal, random: np.random.RandomState) -> Rows:
    whole = int(weight)
    some = int(((weight - whole) * len(rows)).to_integral_value(ROUND_HALF_UP))
    some = max(some, 1) if not whole and len(rows) else some
    return np.concatenate([np.tile(rows, whole), random.permutation(rows)[:some]])


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(np.frombuffer(hashlib.sha256(f"hf-layerprune/mixture/{name}".encode()).digest(), np.uint32))
