"""What a plan is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError

DEFAULT_METHOD = "mixed"
BudgetOf = Literal["middle", "all"]


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan; UsageError for some that exclude each other. At most one of budget, num_layers and layers is given."""

    method: str | None = option(None, "How to rank layers; `hf-layerprune strategies` lists them.", "NAME", DEFAULT_METHOD)
    parameters: Mapping[str, object] = option({}, "A parameter of the method.", "NAME=VALUE")
    budget: str | float | None = option(None, "Share of the layers to remove, 0.25 or 25%.", "SHARE", "0.25, the paper's middle budget")
    budget_of: BudgetOf = option(
        "middle", "Share of the layers but first and last, or of all (INTERLACE).", "middle|all", "middle, as in the domain-aware paper"
    )
    num_layers: int | None = option(None, "Remove this many layers instead.", "K")
    layers: str | Sequence[int] | None = option(None, "Remove these layers instead, such as 11,17-20.", "LIST")
    protect: str = option(
        "default",
        "`first,last` is the domain-aware paper's protocol, `none` INTERLACE's; numbers can be added.",
        "WHICH",
        "first, last and DeepStack layers",
    )
    strict: bool = option(False, "Refuse where the method must widen its spacing rule to reach the budget.")
    force: bool = option(False, "With --layers: remove protected layers too.")

    def __post_init__(self) -> None:
        if self.layers is None and self.force:
            raise UsageError("--force removes protected layers that are named by --layers: name them, or protect fewer with --protect.")
        if self.layers is not None and self.method is not None:
            raise UsageError("--layers names the layers by hand and --method ranks them: leave one of them out.")
        if self.layers is not None and self.parameters:
            name = next(iter(self.parameters))
            raise UsageError(f"parameter {name!r} belongs to a method, but --layers uses none. Leave one of them out.")
