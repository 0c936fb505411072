"""What was asked of a plan, read and refused as far as that goes before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import Budget
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.families.facts import MIN_LAYERS
from hf_layerprune.strategies import find_strategy, parse_parameters
from hf_layerprune.strategies.budget import BudgetOf, resolve_budget
from hf_layerprune.strategies.layer_lists import check_layers, format_layers, parse_layers, protected_layers
from hf_layerprune.strategies.strategy import NoParameters, Strategy

DEFAULT_BUDGET = "0.25"  # the middle one of the domain-aware paper's three


class Asked(TypedDict, total=False):
    """The options of a plan, all of them optional.

    budget, budget_of, num_layers: see `resolve_budget`; layers: the layers themselves, as text ("3-5,9") or numbers. At most
    one of budget, num_layers and layers; a quarter of the middle layers if none is given.
    protect: see `protected_layers`; force: `layers` may be protected ones.
    parameters: the method's, by name, as text or Python values.
    """

    budget: str | float | None
    budget_of: BudgetOf
    num_layers: int | None
    layers: str | Sequence[int] | None
    protect: str
    force: bool
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class Request:
    """What was asked, resolved. strategy: None where the layers were named, which then stand in `chosen`; all ascending."""

    strategy: Strategy | None
    parameters: Any
    budget: Budget
    protected: tuple[int, ...]
    free: tuple[int, ...]
    chosen: tuple[int, ...] = ()

    @property
    def forced(self) -> tuple[int, ...]:
        """The protected layers that are removed since they were named."""
        return tuple(layer for layer in self.chosen if layer in self.protected)


def read_request(facts: ModelFacts, method: str, **asked: Unpack[Asked]) -> Request:
    """Resolve budget, protection, method and parameters; `method` is without effect where the layers are named.

    Raises UsageError for options that cannot be honoured, StrategyError where the protection does not leave the layers asked for.
    """
    layers, parameters = asked.get("layers"), asked.get("parameters", {})
    chosen = None if layers is None else _chosen(layers, facts.layers)
    budget = _budget(facts.layers, chosen, asked)
    protected = protected_layers(facts, asked.get("protect", "default"))
    free = tuple(layer for layer in range(facts.layers) if layer not in protected)
    if chosen is not None:
        if parameters:
            raise UsageError(f"parameter {next(iter(parameters))!r} belongs to a method, but --layers uses none. Leave one of them out.")
        request = Request(None, NoParameters(), budget, protected, free, chosen)
        _refuse_forced(request, facts, allowed=asked.get("force", False))
        return request
    if asked.get("force"):
        raise UsageError("--force removes protected layers that are named by --layers: name them, or protect fewer with --protect.")
    strategy = find_strategy(method)
    request = Request(strategy, parse_parameters(strategy, parameters), budget, protected, free)
    _refuse_beyond(request)
    return request


def _chosen(layers: str | Sequence[int], depth: int) -> tuple[int, ...]:
    return parse_layers(layers, depth) if isinstance(layers, str) else check_layers(layers, depth)


def _budget(depth: int, chosen: tuple[int, ...] | None, asked: Asked) -> Budget:
    budget, num_layers = asked.get("budget"), asked.get("num_layers")
    if budget is None and num_layers is None and chosen is None:
        budget = DEFAULT_BUDGET
    resolved = resolve_budget(depth, budget=budget, budget_of=asked.get("budget_of", "middle"), num_layers=num_layers, chosen=chosen)
    if (left := depth - resolved.layers) < MIN_LAYERS:
        raise UsageError(f"removing {resolved.layers} of {depth} layers leaves {left}; at least {MIN_LAYERS} must stay. Remove fewer.")
    return resolved


def _refuse_forced(request: Request, facts: ModelFacts, allowed: bool) -> None:
    if request.forced and not allowed:
        said = " and ".join(f"layer {layer} is protected ({_reason(layer, facts)})" for layer in request.forced)
        them = "it" if len(request.forced) == 1 else "them"
        raise StrategyError(f"{said}. Free layers: {format_layers(request.free)}. To remove {them} anyway, add --force.")


def _reason(layer: int, facts: ModelFacts) -> str:
    known = {0: "first", facts.layers - 1: "last"}
    return known.get(layer, "DeepStack" if layer < facts.deepstack_layers else "by --protect")


def _refuse_beyond(request: Request) -> None:
    if request.budget.layers > len(request.free):
        raise StrategyError(
            f"the budget asks for {request.budget.layers} layers, but only {len(request.free)} are free (protected: "
            f"{format_layers(request.protected)}). Lower the budget, or protect fewer layers with --protect first,last or --protect none."
        )
