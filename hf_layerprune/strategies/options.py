"""What a plan is asked for, and lists of layers as people write them: "3-5,9"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError, shown

DEFAULT_METHOD = "mixed"
BudgetOf = Literal["middle", "all"]
LAYER_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", re.ASCII)


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan; UsageError for some that exclude each other. At most one of budget, num_layers and layers is given."""

    method: str | None = option(None, "How to rank layers; `hf-layerprune strategies` lists them.", "NAME", DEFAULT_METHOD)
    budget: str | float | None = option(None, "Share of the layers to remove, 0.25 or 25%.", "SHARE", "0.25, the paper's middle budget")
    _: KW_ONLY
    parameters: Mapping[str, object] = option({}, "A parameter of the method.", "NAME=VALUE")
    budget_of: BudgetOf = option(
        "middle", "Share of the layers but first and last, or of all (INTERLACE).", "middle|all", "middle, as in the domain-aware paper"
    )
    num_layers: int | None = option(None, "Remove this many layers instead.", "K")
    layers: str | Sequence[int] | None = option(None, "Remove these layers instead, such as 11,17-20.", "LIST")
    protect: str | Sequence[str | int] = option(
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


def parse_layers(asked: str | Sequence[int], layers: int) -> tuple[int, ...]:
    """The layers that a list such as "3-5,9" or (9, 3, 4, 5) names, of a model of `layers` layers, ascending.

    Raises UsageError for an invalid list, a layer out of range or named twice, and for no layer or all of them.
    """
    valid = f"Expected numbers from 0 to {layers - 1} and ranges of them, such as 3-5,9."
    chosen = [] if isinstance(asked, str) else list(asked)
    for part in asked.split(",") if isinstance(asked, str) else ():
        named = _layer_range(part)
        if named is None:
            raise UsageError(f"--layers {shown(asked)}: invalid layer {shown(part)}. {valid}")
        if not named:
            raise UsageError(f"--layers {shown(asked)}: the range {part.strip()} runs backwards; write {named.stop - 1}-{named.start}.")
        chosen += named[: layers + 1]  # one too many shows; a million would only take memory
    for position, layer in enumerate(chosen):
        if type(layer) is not int or not 0 <= layer < layers:
            raise UsageError(f"--layers: invalid layer {shown(layer)}. {valid}")
        if layer in chosen[:position]:
            raise UsageError(f"--layers: layer {layer} is named twice. Name every layer once.")
    if not 0 < len(chosen) < layers:
        raise UsageError(f"--layers: {len(chosen)} of {layers} layers are named; at least one must go and one must stay.")
    return tuple(sorted(chosen))


def protected_layers(facts: ModelFacts, protect: str | Sequence[str | int]) -> tuple[int, ...]:
    """The layers that `protect` names, ascending.

    protect: "default" (first, last and the layers that DeepStack features are added after), "none", or a list, in one text by comma, of
    first, last, deepstack, layer numbers and ranges ("first,last,7,9-11"). UsageError for anything else.
    """
    protect = protect if isinstance(protect, str) else ",".join(map(str, protect)) or "none"
    if protect == "none":
        return ()
    depth = facts.layers
    words = {"first": range(1), "last": range(depth - 1, depth), "deepstack": range(facts.deepstack_layers)}
    chosen: set[int] = set()
    for part in ("first,last,deepstack" if protect == "default" else protect).split(","):
        named = words.get(part.strip()) or _layer_range(part)
        if part.strip() != "deepstack" and not (named and named[-1] < depth):
            raise UsageError(
                f"--protect {shown(protect)}: expected default or none alone, or a list of first, last, deepstack, layers from 0 to "
                f"{depth - 1} and ranges such as 3-5, by commas; got {shown(part.strip())}."
            )
        chosen.update(named or ())
    return tuple(sorted(chosen))


def format_layers(layers: Iterable[int]) -> str:
    """The layers as `parse_layers` reads them, neighbours as ranges: "3-5,9"; "none" if there are none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def _layer_range(part: str) -> range | None:
    """The layers that "9" or "3-5" names; empty where a range runs backwards, None for anything else."""
    match = LAYER_RANGE.fullmatch(part.strip())
    return range(int(match[1]), int(match[2] or match[1]) + 1) if match else None
