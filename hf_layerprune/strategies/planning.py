"""From the facts of a model and a request to a plan: everything around a strategy that is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from operator import index

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import ArtifactError, LayerPruneError, StrategyError, shown
from hf_layerprune.registry import OURS, one_line
from hf_layerprune.strategies.options import format_layers
from hf_layerprune.strategies.plugins import package_of
from hf_layerprune.strategies.request import Request
from hf_layerprune.strategies.strategy import Evidence, Selection


def make_plan(facts: ModelFacts, request: Request, statistics: LayerStatistics | None = None) -> PruningPlan:
    """Decide which layers of a model go.

    request: as `resolve` gives it for this model. statistics: of this very model, for a method that needs them.

    Raises ArtifactError for statistics of another model, and StrategyError where the method fails or cannot reach the budget.
    Never removes fewer layers than asked.
    """
    if request.strategy is None:
        return _plan(facts, request, Selection({}, request.chosen))
    measured = _measured(request, facts, statistics)
    package = package_of(request.method)
    who = f"strategy {request.method!r} of package {package!r}"
    try:
        evidence = Evidence(request.strategy.needs, measured)
        selection = request.strategy.select(evidence, request.free, request.budget.layers, request.parameters)
    except Exception as error:  # another package's code may raise anything
        if package == OURS and isinstance(error, LayerPruneError):
            raise  # ours says what to do
        if isinstance(error, LayerPruneError):
            raise StrategyError(f"{who}: {error}") from error
        raise StrategyError(f"{who} failed: {one_line(error)}. Use another method, or report it to the package.") from error
    selection = _plain(selection, facts.layers, who)
    if taken := [layer for layer in selection.drop if layer not in request.free]:
        raise StrategyError(f"{who} drops layer {taken[0]}, expected some of {format_layers(request.free)}.")
    try:
        plan = _plan(facts, request, selection, measured)
    except ArtifactError as error:
        raise StrategyError(f"{who}: {error}") from error
    if request.strict and plan.relaxed:
        raise StrategyError(
            f"strategy {request.method!r} reaches {len(plan.strict_drop)} of {len(plan.drop)} layers by its own spacing rule "
            f"({format_layers(plan.strict_drop)}). Lower the budget, protect fewer layers, or leave out --strict to relax the rule."
        )
    return plan


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


def _plain(selection: object, layers: int, who: str) -> Selection:
    """The selection with ascending layers and plain numbers; NumPy's are accepted, for a ranking by argsort yields them.

    Raises StrategyError beginning with `who` for what a plan does not refuse.
    """
    if not isinstance(selection, Selection):
        raise StrategyError(f"{who} returned {type(selection).__name__}, expected a Selection.")
    lists: dict[str, tuple[int, ...]] = {}
    for key in ("drop", "tune", "freeze", "strict_drop"):
        try:
            lists[key] = tuple(sorted({index(layer) for layer in getattr(selection, key)}))
        except TypeError:
            raise StrategyError(f"{who} returned an invalid {key!r}, expected a sequence of layer numbers.") from None
    scores = selection.scores
    if not isinstance(scores, Mapping) or not all(isinstance(score, Real) for score in scores.values()):
        raise StrategyError(f"{who} returned invalid scores, expected a mapping from layers to numbers.")
    if strange := [layer for layer in (*scores, *sum(lists.values(), ())) if layer not in range(layers)]:
        raise StrategyError(f"{who} names layer {shown(strange[0])}, expected 0 to {layers - 1}.")
    if scores and (unscored := [layer for layer in lists["drop"] if layer not in scores]):
        raise StrategyError(f"{who} drops layer {unscored[0]} without a score for it, though it scores {len(scores)} others.")
    return Selection({int(layer): float(score) for layer, score in scores.items()}, relaxed=bool(selection.relaxed), **lists)


def _plan(facts: ModelFacts, request: Request, selection: Selection, measured: LayerStatistics | None = None) -> PruningPlan:
    return PruningPlan(
        source=facts.source,
        family=facts.family,
        budget=request.budget,
        strategy=request.method,
        parameters=asdict(request.parameters),
        score_meaning=request.strategy.score_meaning if request.strategy else "none: the layers were named by hand",
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
