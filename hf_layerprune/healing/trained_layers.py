"""Which decoder layers a recipe trains in full: those that the plan marks, or those that a paper names where it marks none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.errors import UsageError


@dataclass(frozen=True)
class TrainedLayers:
    """The layers that are trained in full."""

    layers: tuple[int, ...]  # of the checkpoint that is healed, ascending; empty where adapters are trained
    chosen_by: str


def layers_to_train(plan: PruningPlan | None, depth: int, tune_last: str | None) -> TrainedLayers:
    """The layers of a checkpoint of `depth` layers that a recipe with method "layers" trains.

    plan: what it was pruned by, None for a dense one; tune_last: a count or a share of the layers, taken from the end.
    UsageError if neither says.
    """
    if tune_last is not None:
        count = parse_tune_last(tune_last, depth)
        return TrainedLayers(tuple(range(depth - count, depth)), f"the last {tune_last} (INTERLACE's dense control)")
    if plan is None:
        raise UsageError("the checkpoint was not pruned, so no plan says which layers to tune: add --tune-last, such as --tune-last 25%.")
    place = {layer: index for index, layer in enumerate(plan.keep)}
    if plan.tune:
        return TrainedLayers(tuple(place[layer] for layer in plan.tune), f"the plan ({plan.strategy})")
    return TrainedLayers(
        tuple(place[layer] for layer in train_next(plan.keep, plan.drop)), "train-next (INTERLACE's ablation; our choice here)"
    )


def train_next(keep: Sequence[int], drop: Sequence[int]) -> tuple[int, ...]:
    """For each dropped layer, ascending, the next kept layer that is not taken yet, or the nearest before it; source indices.

    As many as were dropped, or all kept ones. INTERLACE's ablation (section 4.5) names "the layer immediately after"; which
    one a run of dropped layers then takes is ours.
    """
    taken: set[int] = set()
    for layer in sorted(drop):
        after = [kept for kept in keep if kept > layer and kept not in taken]
        before = [kept for kept in keep if kept < layer and kept not in taken]
        if after or before:
            taken.add(min(after) if after else max(before))
    return tuple(sorted(taken))


def parse_tune_last(text: str, depth: int) -> int:
    """`9`, or `25%` of the layers rounded down (INTERLACE's floor(0.25 L)); UsageError unless it is at least one and at most all."""
    try:
        share = Decimal(text.removesuffix("%")) / 100 if text.endswith("%") else None
        count = int(text) if share is None else int(share * depth) if share <= 1 else 0
    except (InvalidOperation, ValueError, OverflowError):
        count = 0
    if not 1 <= count <= depth:
        raise UsageError(f"--tune-last {text!r}: expected a number of layers from 1 to {depth}, or a share such as 25%.")
    return count
