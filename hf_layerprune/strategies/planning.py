"""From the options of a plan to what they mean for one model, and with its statistics to the plan; the same for every strategy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from numbers import Real
from operator import index
from typing import Any

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import MANUAL, Budget, PruningPlan
from hf_layerprune.artifacts.prompts import Domain
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import ArtifactError, LayerPruneError, StrategyError, UsageError, shown
from hf_layerprune.families.facts import MIN_LAYERS
from hf_layerprune.registry import OURS, one_line
from hf_layerprune.strategies.options import DEFAULT_METHOD, PlanOptions, format_layers, parse_layers, protected_layers
from hf_layerprune.strategies.plugins import find_strategy, package_of, parse_parameters
from hf_layerprune.strategies.strategy import Evidence, NoParameters, Selection, Strategy, needed_domains

DEFAULT_BUDGET = "0.25"  # the middle one of the domain-aware paper's three
FRACTION = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?(%?)", re.ASCII)


@dataclass(frozen=True)
class Request:
    """What was asked of a plan for one model, resolved. Layers are ascending."""

    strategy: Strategy | None  # None where the layers are named
    parameters: Any  # of the strategy
    budget: Budget
    protected: tuple[int, ...]
    free: tuple[int, ...]  # all other layers
    chosen: tuple[int, ...]  # the layers that are named
    strict: bool  # whether a relaxed spacing rule is refused

    @property
    def method(self) -> str:
        return self.strategy.name if self.strategy else MANUAL

    @property
    def forced(self) -> tuple[int, ...]:
        """The protected layers that are removed since they were named."""
        return tuple(layer for layer in self.chosen if layer in self.protected)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains whose statistics the strategy reads."""
        return needed_domains(self.strategy) if self.strategy else ()


def strategy_of(options: PlanOptions) -> Strategy | None:
    """The strategy of a plan's method, None where the layers are named; raises as `find_strategy`."""
    return find_strategy(options.method or DEFAULT_METHOD) if options.layers is None else None


def resolve(facts: ModelFacts, options: PlanOptions) -> Request:
    """What the options mean for a model.

    Raises UsageError for options that cannot be honoured, StrategyError where the protection does not leave the layers asked for.
    """
    depth = facts.layers
    chosen = None if options.layers is None else parse_layers(options.layers, depth)
    budget = resolve_budget(depth, options, chosen)
    if (left := depth - budget.layers) < MIN_LAYERS:
        raise UsageError(f"removing {budget.layers} of {depth} layers leaves {left}; at least {MIN_LAYERS} must stay. Remove fewer.")
    protected = protected_layers(facts, options.protect)
    strategy = strategy_of(options)
    parameters = parse_parameters(strategy, options.parameters) if strategy else NoParameters()
    free = tuple(layer for layer in range(depth) if layer not in protected)
    request = Request(strategy, parameters, budget, protected, free, chosen or (), options.strict)
    if request.forced and not options.force:
        said = " and ".join(f"layer {layer} is protected ({_reason(layer, facts)})" for layer in request.forced)
        them = "it" if len(request.forced) == 1 else "them"
        raise StrategyError(f"{said}. Free layers: {format_layers(free)}. To remove {them} anyway, add --force.")
    if strategy and budget.layers > len(free):
        raise StrategyError(
            f"the budget asks for {budget.layers} layers, but only {len(free)} are free (protected: {format_layers(protected)}). "
            "Lower the budget, or protect fewer layers with --protect first,last or --protect none."
        )
    return request


def resolve_budget(layers: int, options: PlanOptions, chosen: tuple[int, ...] | None = None) -> Budget:
    """How many of `layers` decoder layers to remove, K; a quarter of the middle ones where nothing is asked for.

    options.budget: a fraction p above 0 and below 1 such as 0.25, "0.25" or "25%". Of the L - 2 middle layers K = floor(p (L - 2))
    (domain-aware paper, section 3.1), of "all" K = floor(p L) (INTERLACE, section 3.3); K does not depend on the protection.
    options.num_layers: K itself, from 1 to L - 3. chosen: the layers that `options.layers` names.
    Raises UsageError for anything else, and for a fraction of less than one layer.
    """
    given = {"--budget": options.budget, "--num-layers": options.num_layers, "--layers": chosen}
    if len(ways := [way for way, value in given.items() if value is not None]) > 1:
        raise UsageError(f"only one of {', '.join(given)} says how many layers go, got {' and '.join(ways)}.")
    if chosen is not None:
        return Budget(None, "layers", len(chosen))
    if (count := options.num_layers) is not None:
        if type(count) is not int or not 1 <= count <= layers - MIN_LAYERS:
            raise UsageError(
                f"--num-layers {shown(count)}: expected a whole number from 1 to {layers - MIN_LAYERS}; at least {MIN_LAYERS} must stay."
            )
        return Budget(None, "count", count)
    if options.budget_of not in ("middle", "all"):
        raise UsageError(f"--budget-of {shown(options.budget_of)}: expected middle (floor(p * (L - 2)) layers) or all (floor(p * L)).")
    budget = DEFAULT_BUDGET if options.budget is None else options.budget
    asked = repr(budget) if type(budget) is float else str(budget)  # the shortest text of a float is what was written
    of = max(layers - 2, 0) if options.budget_of == "middle" else layers
    k = math.floor(_fraction(asked) * of)  # in rational arithmetic: as floats 0.29 * 100 is 28.999...
    if k == 0:
        least = -(-10_000 // of) / 10_000 if of else 1.0  # of four digits
        hint = f"The least is 1 layer, from --budget {least} on." if least < 1 else "No fraction gives one: use --num-layers or --layers."
        raise UsageError(f"--budget {shown(asked)} of {of} layers is less than one layer. {hint}")
    return Budget(asked, options.budget_of, k)


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
    """What happens to visual features if the plan drops a layer they are added after, or leaves too few; one line, None if neither.

    DeepStack feature i is added after layer i by position, so that dropping a layer moves it to the next kept one.
    """
    count = facts.deepstack_layers
    lost, now = [layer for layer in plan.drop if layer < count], plan.keep[:count]
    said = []
    if lost:
        were, are = (f"layer{'s' * (len(layers) != 1)} {format_layers(layers)}" for layers in (lost, now))
        nowhere = f", and {count - len(now)} of them nowhere" if len(now) < count else ""
        moved = f"they will be added after {are} instead{nowhere}"
        said.append(f"the plan drops {were} of the {count} that DeepStack features are added after; {moved}.")
    if count and len(plan.keep) <= count:
        said.append(f"{len(plan.keep)} layers stay for {count} DeepStack levels: llama.cpp needs at least one layer more than levels.")
    return " ".join(said) or None


def _fraction(asked: str) -> Fraction:
    match = FRACTION.fullmatch(asked)
    if not match:
        raise UsageError(f"invalid --budget {shown(asked)}: expected a fraction such as 0.25, or 25% without a space.")
    value = Fraction(asked.rstrip("%")) / (100 if match[1] else 1)
    if not 0 < value < 1:
        hint = f" Did you mean {asked}%?" if 1 < value < 100 and not match[1] else ""
        raise UsageError(f"--budget {shown(asked)} is out of range: expected a fraction above 0 and below 1, such as 0.25 or 25%.{hint}")
    return value


def _reason(layer: int, facts: ModelFacts) -> str:
    """Why a layer is protected."""
    known = {0: "first", facts.layers - 1: "last"}
    return known.get(layer, "DeepStack" if layer < facts.deepstack_layers else "by --protect")


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
