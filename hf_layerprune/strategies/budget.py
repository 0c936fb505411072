"""How many layers go: a fraction, a count or a list of layers, resolved exactly."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Literal

from hf_layerprune.artifacts.plan import Budget
from hf_layerprune.errors import UsageError, shown
from hf_layerprune.families.facts import MIN_LAYERS

BudgetOf = Literal["middle", "all"]
FRACTION = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?(%?)", re.ASCII)


def resolve_budget(
    layers: int,
    *,
    budget: str | float | None,
    budget_of: BudgetOf = "middle",
    num_layers: int | None = None,
    chosen: tuple[int, ...] | None = None,
) -> Budget:
    """How many of `layers` decoder layers to remove, K, asked for in exactly one of three ways.

    budget: a fraction p above 0 and below 1 such as 0.25, "0.25" or "25%". Of the L - 2 middle layers K = floor(p (L - 2))
    (domain-aware paper, section 3.1), of "all" K = floor(p L) (INTERLACE, section 3.3); K does not depend on the protection.
    num_layers: K itself, from 1 to L - 3. chosen: the layers to remove, as `parse_layers` or `check_layers` gives them.

    Raises UsageError for anything else, and for a fraction of less than one layer.
    """
    given = {"--budget": budget, "--num-layers": num_layers, "--layers": chosen}
    ways = [way for way, value in given.items() if value is not None]
    if len(ways) != 1:
        found = "none was given" if not ways else f"got {' and '.join(ways)}"
        raise UsageError(f"exactly one of {', '.join(given)} says how many layers go: {found}.")
    if chosen is not None:
        return Budget(None, "layers", len(chosen))
    if num_layers is not None:
        return Budget(None, "count", _count(num_layers, layers))
    asked = repr(budget) if type(budget) is float else str(budget)  # the shortest text of a float is what was written
    return Budget(asked, budget_of, _share(asked, budget_of, layers))


def _count(num_layers: object, layers: int) -> int:
    if type(num_layers) is not int or not 1 <= num_layers <= layers - MIN_LAYERS:
        most = layers - MIN_LAYERS
        raise UsageError(f"--num-layers {shown(num_layers)}: expected a whole number from 1 to {most}; at least {MIN_LAYERS} must stay.")
    return num_layers


def _share(asked: str, budget_of: str, layers: int) -> int:
    """K = floor(p n), in rational arithmetic: as floats 0.29 * 100 is 28.999..."""
    if budget_of not in ("middle", "all"):
        raise UsageError(f"--budget-of {shown(budget_of)}: expected middle (floor(p * (L - 2)) layers) or all (floor(p * L)).")
    fraction = _fraction(asked)
    of = max(layers - 2, 0) if budget_of == "middle" else layers
    count = math.floor(fraction * of)
    if count == 0:
        raise UsageError(f"--budget {shown(asked)} of {of} layers is less than one layer. {_least(of)}")
    return count


def _fraction(asked: str) -> Fraction:
    match = FRACTION.fullmatch(asked)
    if not match:
        raise UsageError(f"--budget {shown(asked)} is no number: expected a fraction such as 0.25, or 25% without a space.")
    value = Fraction(asked.rstrip("%")) / (100 if match[1] else 1)
    if not 0 < value < 1:
        hint = f" Did you mean {asked}%?" if 1 < value < 100 and not match[1] else ""
        raise UsageError(f"--budget {shown(asked)} is out of range: expected a fraction above 0 and below 1, such as 0.25 or 25%.{hint}")
    return value


def _least(of: int) -> str:
    """What to ask for instead: the smallest fraction of four digits that gives a layer, if one below 1 does."""
    digits = -(-10_000 // of) if of else 10_000
    if digits >= 10_000:
        return "No fraction of so few gives one: use --num-layers or --layers."
    return f"The least is 1 layer, from --budget {digits / 10_000} on."
