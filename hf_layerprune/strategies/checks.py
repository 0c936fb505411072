"""Trust no selection: what a strategy returns is checked alike, whether the strategy is ours or another package's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from operator import index
from typing import Any

from hf_layerprune.errors import StrategyError, shown
from hf_layerprune.strategies.layer_lists import format_layers
from hf_layerprune.strategies.strategy import Selection


def checked_selection(selection: object, layers: int, free: tuple[int, ...], k: int, who: str) -> Selection:
    """The selection with ascending layers and plain numbers, for a model of `layers` layers.

    Raises StrategyError beginning with `who`, a strategy and its package, if it is not k of the free layers with finite
    scores, or if the layers to tune and to freeze are not disjoint sets of kept layers.
    """
    if not isinstance(selection, Selection):
        raise StrategyError(f"{who} returned {type(selection).__name__}, expected a Selection.")
    drop = _layers(selection.drop, "drop", free, who)
    if len(drop) != k:
        raise StrategyError(f"{who} drops {len(drop)} layers, expected exactly {k}.")
    kept = tuple(layer for layer in range(layers) if layer not in drop)
    tune, freeze = _layers(selection.tune, "tune", kept, who), _layers(selection.freeze, "freeze", kept, who)
    if both := set(tune) & set(freeze):
        raise StrategyError(f"{who} both tunes and freezes layer {min(both)}.")
    strict_drop = _layers(selection.strict_drop, "strict_drop", free, who)
    scores = _scores(selection.scores, layers, drop, who)
    return Selection(scores, drop, tune, freeze, bool(selection.relaxed), strict_drop)


def _layers(value: Any, key: str, allowed: tuple[int, ...], who: str) -> tuple[int, ...]:
    """The layers of one key, ascending; NumPy's integers are accepted, for a ranking by argsort yields them."""
    try:
        layers = sorted(index(layer) for layer in value)
    except TypeError:
        raise StrategyError(f"{who} returned {key!r} that is no sequence of layer numbers.") from None
    for layer in layers:
        if layers.count(layer) > 1:
            raise StrategyError(f"{who} names layer {layer} twice in {key!r}.")
        if layer not in allowed:
            raise StrategyError(f"{who} names layer {layer} in {key!r}, expected some of {format_layers(allowed)}.")
    return tuple(layers)


def _scores(scores: object, layers: int, drop: tuple[int, ...], who: str) -> dict[int, float]:
    """The scores as floats; a strategy that scores at all must score what it drops."""
    if not isinstance(scores, Mapping):
        raise StrategyError(f"{who} returned scores that are {type(scores).__name__}, expected a mapping from layers to numbers.")
    for layer, score in scores.items():
        if layer not in range(layers):
            raise StrategyError(f"{who} scores {shown(layer)}, which is no layer; expected 0 to {layers - 1}.")
        if not isinstance(score, Real) or not math.isfinite(score):
            raise StrategyError(f"{who} gives layer {layer} the score {shown(score)}, expected a finite number.")
    if scores and (unscored := [layer for layer in drop if layer not in scores]):
        raise StrategyError(f"{who} drops layer {unscored[0]} without a score for it, though it scores {len(scores)} others.")
    return {int(layer): float(score) for layer, score in sorted(scores.items())}
