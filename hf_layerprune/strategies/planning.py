"""From the facts of a model and a request to a plan: everything around a strategy that is the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import ArtifactError, LayerPruneError, StrategyError
from hf_layerprune.registry import OURS, one_line
from hf_layerprune.strategies.checks import checked_selection
from hf_layerprune.strategies.layer_lists import format_layers
from hf_layerprune.strategies.plugins import package_of
from hf_layerprune.strategies.request import Request
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy


def make_plan(facts: ModelFacts, request: Request, statistics: LayerStatistics | None = None) -> PruningPlan:
    """Decide which layers of a model go.

    request: as `resolve` gives it for this model. statistics: of this very model, for a method that needs them.

    Raises ArtifactError for statistics of another model, and StrategyError where the method fails or cannot reach the budget.
    Never removes fewer layers than asked.
    """
    if request.strategy is None:
        return _plan(facts, request, "none: the layers were named by hand", Selection({}, request.chosen))
    measured = _measured(request, facts, statistics)
    selection = _select(request.strategy, measured, facts.layers, request)
    if request.strict and selection.relaxed:
        _refuse_relaxed(request.method, selection)
    return _plan(facts, request, request.strategy.score_meaning, selection, measured)


def deepstack_warning(plan: PruningPlan, facts: ModelFacts) -> str | None:
    """What happens to visual features if the plan drops a layer they are added after, in one line; None if it drops none.

    DeepStack feature i is added after layer i by position, so that dropping a layer moves it to the next kept one.
    """
    lost = [layer for layer in plan.drop if layer < facts.deepstack_layers]
    if not lost:
        return None
    now = plan.keep[: facts.deepstack_layers]
    text = (
        f"the plan drops {_named(lost)} of the {facts.deepstack_layers} that DeepStack features are added after; "
        f"they will be added after {_named(now)} instead"
    )
    return text + (f", and {facts.deepstack_layers - len(now)} of them nowhere." if len(now) < facts.deepstack_layers else ".")


def _measured(request: Request, facts: ModelFacts, statistics: LayerStatistics | None) -> LayerStatistics | None:
    """The statistics if the strategy reads them, checked to be of this model and to hold its domains; else None."""
    if not request.domains:
        return None
    if statistics is None:
        wanted = " and ".join(request.domains)
        raise StrategyError(f"strategy {request.method!r} needs statistics ({wanted}): probe first, or use a method that needs none.")
    _refuse_other_model(statistics.model, facts)
    if missing := [domain for domain in request.domains if domain not in statistics.domains]:
        found = " and ".join(statistics.domains) or "no whole domain"
        raise StrategyError(
            f"strategy {request.method!r} needs the {missing[0]} domain, but the statistics hold {found}. "
            f"Probe the {missing[0]} domain too, or use another method."
        )
    return statistics


def _refuse_other_model(of: ModelFacts, facts: ModelFacts) -> None:
    """Raise ArtifactError with the first difference between the model that was measured and the one to plan for."""
    name = facts.source.id
    for key in ("family", "layers", "hidden_size", "deepstack_layers"):
        found, expected = getattr(of, key), getattr(facts, key)
        if found != expected:
            raise ArtifactError(f"the statistics are of another model: {key} {found!r}, but {name} has {expected!r}. Probe {name}.")
    if of.source.fingerprint != facts.source.fingerprint:
        raise ArtifactError(
            f"the statistics are of {of.source.id} with fingerprint {of.source.fingerprint[:12]}, but {name} has "
            f"{facts.source.fingerprint[:12]}: another model or another revision. Probe {name}."
        )


def _select(strategy: Strategy, measured: LayerStatistics | None, layers: int, request: Request) -> Selection:
    """Run a strategy, whoever wrote it, and check what it says; StrategyError naming it and its package."""
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
    return checked_selection(selection, layers, request.free, request.budget.layers, who)


def _refuse_relaxed(method: str, selection: Selection) -> None:
    raise StrategyError(
        f"strategy {method!r} reaches {len(selection.strict_drop)} of {len(selection.drop)} layers by its own spacing rule "
        f"({format_layers(selection.strict_drop)}). Lower the budget, protect fewer layers, or leave out --strict to let it relax the rule."
    )


def _plan(facts: ModelFacts, request: Request, meaning: str, selection: Selection, measured: LayerStatistics | None = None) -> PruningPlan:
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


def _named(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {format_layers(layers)}"
