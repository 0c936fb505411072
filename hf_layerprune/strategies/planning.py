"""From the facts of a model and a request to a plan: everything around a strategy that is the same for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from operator import index
from typing import Any

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import ArtifactError, LayerPruneError, StrategyError, shown
from hf_layerprune.registry import OURS, one_line
from hf_layerprune.strategies.options import format_layers
from hf_layerprune.strategies.plugins import package_of
from hf_layerprune.strategies.request import Request
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy


def make_plan(facts: ModelFacts, request: Request, statistics: LayerStatistics | None = None) -> PruningPlan:
    """Decide which layers of a model go.

    request: as `resolve` gives it for this model. statistics: of this very model, for a method that needs them.

    Raises ArtifactError for statistics of another model, and StrategyError where the method fails or cannot reach the budget.
    Never removes fewer layers than asked.
    """
    meaning, selection, measured = "none: the layers were named by hand", Selection({}, request.chosen), None
    if request.strategy:
        meaning = request.strategy.score_meaning
        measured = _measured(request, facts, statistics)
        selection = _select(request.strategy, measured, facts.layers, request)
    if request.strict and selection.relaxed:
        raise StrategyError(
            f"strategy {request.method!r} reaches {len(selection.strict_drop)} of {len(selection.drop)} layers by its own spacing rule "
            f"({format_layers(selection.strict_drop)}). Lower the budget, protect fewer layers, or leave out --strict to relax the rule."
        )
    return PruningPlan(
        source=facts.source,
        family=facts.family,
        budget=request.budget,
        strategy=request.method,
        parameters=asdict(request.parameters),
        score_meaning=meaning,
        scores=tuple(selection.scores.get(layer) for layer in range(facts.layers)),
        protected=request.protected,
        forced=request.forced,
        drop=selection.drop,
        keep=tuple(layer for layer in range(facts.layers) if layer not in selection.drop),
        tune=selection.tune,
        freeze=selection.freeze,
        relaxed=selection.relaxed,
        strict_drop=selection.strict_drop,
        statistics=measured.fingerprint if measured else None,
        original_layers=facts.original_layers,
    )


def deepstack_warning(plan: PruningPlan, facts: ModelFacts) -> str | None:
    """What happens to visual features if the plan drops a layer they are added after, in one line; None if it drops none.

    DeepStack feature i is added after layer i by position, so that dropping a layer moves it to the next kept one.
    """
    count = facts.deepstack_layers
    lost, now = [layer for layer in plan.drop if layer < count], plan.keep[:count]
    if not lost:
        return None
    were, are = (f"layer{'s' * (len(layers) != 1)} {format_layers(layers)}" for layers in (lost, now))
    nowhere = f", and {count - len(now)} of them nowhere" if len(now) < count else ""
    text = f"the plan drops {were} of the {count} that DeepStack features are added after; they will be added after {are} instead"
    return f"{text}{nowhere}."


def _measured(request: Request, facts: ModelFacts, statistics: LayerStatistics | None) -> LayerStatistics | None:
    """The statistics if the strategy reads them, checked to be of this model and to hold its domains; else None."""
    if not request.domains:
        return None
    if statistics is None:
        wanted = " and ".join(request.domains)
        raise StrategyError(f"strategy {request.method!r} needs statistics ({wanted}): probe first, or use a method that needs none.")
    of, name = statistics.model, facts.source.id
    differences = {key: (getattr(of, key), getattr(facts, key)) for key in ("family", "layers", "hidden_size", "deepstack_layers")}
    differences["fingerprint"] = of.source.fingerprint[:12], facts.source.fingerprint[:12]
    for key, (found, expected) in differences.items():
        if found != expected:
            raise ArtifactError(
                f"the statistics are of another model or another revision: {key} {found!r}, but {name} has {expected!r}. Probe {name}."
            )
    if missing := [domain for domain in request.domains if domain not in statistics.domains]:
        held = " and ".join(statistics.domains) or "no whole domain"
        raise StrategyError(
            f"strategy {request.method!r} needs the {missing[0]} domain, but the statistics hold {held}. "
            f"Probe the {missing[0]} domain too, or use another method."
        )
    return statistics


def _select(strategy: Strategy, measured: LayerStatistics | None, layers: int, request: Request) -> Selection:
    """Run a strategy, whoever wrote it, and check what it returns; StrategyError naming it and its package."""
    package = package_of(strategy.name)
    who = f"strategy {strategy.name!r} of package {package!r}"
    try:
        evidence = Evidence(strategy.needs, measured)
        selection = strategy.select(evidence, request.free, request.budget.layers, request.parameters)
    except Exception as error:  # another package's code may raise anything
        if package == OURS and isinstance(error, LayerPruneError):
            raise  # ours says what to do
        if isinstance(error, LayerPruneError):
            raise StrategyError(f"{who}: {error}") from error
        raise StrategyError(f"{who} failed: {one_line(error)}. Use another method, or report it to the package.") from error
    return _checked(selection, layers, request, who)


def _checked(selection: object, layers: int, request: Request, who: str) -> Selection:
    """The selection with ascending layers and plain numbers, whoever made it.

    Raises StrategyError beginning with `who` if it is not as many of the free layers as asked for, with finite scores, or if the
    layers to tune and to freeze are not disjoint sets of kept layers.
    """
    if not isinstance(selection, Selection):
        raise StrategyError(f"{who} returned {type(selection).__name__}, expected a Selection.")
    drop = _layers(selection.drop, "drop", request.free, who)
    if len(drop) != request.budget.layers:
        raise StrategyError(f"{who} drops {len(drop)} layers, expected exactly {request.budget.layers}.")
    kept = tuple(layer for layer in range(layers) if layer not in drop)
    tune, freeze = _layers(selection.tune, "tune", kept, who), _layers(selection.freeze, "freeze", kept, who)
    if both := set(tune) & set(freeze):
        raise StrategyError(f"{who} both tunes and freezes layer {min(both)}.")
    strict_drop = _layers(selection.strict_drop, "strict_drop", request.free, who)
    return Selection(_scores(selection.scores, layers, drop, who), drop, tune, freeze, bool(selection.relaxed), strict_drop)


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
