"""From the options of a plan to what they mean for one model, and their refusal as far as that goes before anything is measured."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.plan import MANUAL, Budget
from hf_layerprune.artifacts.prompts import Domain
from hf_layerprune.errors import StrategyError, UsageError, shown
from hf_layerprune.families.facts import MIN_LAYERS
from hf_layerprune.strategies.options import DEFAULT_METHOD, PlanOptions, format_layers, parse_layers, protected_layers
from hf_layerprune.strategies.plugins import find_strategy, parse_parameters
from hf_layerprune.strategies.strategy import NoParameters, Strategy, needed_domains

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
