"""The pruning plan: which layers go, which stay, and why. `plan.json` is made to be read, compared and edited by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import check_format, dump_json, read_json, write_atomic
from hf_layerprune.artifacts.layer_map import layer_map, removal_lines
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError, shown

PLAN_FORMAT = 1
MANUAL = "manual"  # what a plan names as its strategy when the layers were given


@dataclass(frozen=True)
class Budget:
    """The budget as asked and as resolved.

    asked: the fraction as written ("0.25"), or None for a count or a list of layers; of: "middle" (K = floor(p (L - 2))),
    "all" (K = floor(p L)), "count" or "layers"; layers: K, the number of layers to remove.
    """

    asked: str | None
    of: str
    layers: int

    def __post_init__(self) -> None:
        if (
            not isinstance(self.asked, (str, type(None)))
            or self.of not in ("middle", "all", "count", "layers")
            or type(self.layers) is not int
        ):
            raise ValueError("a budget is asked for as text or null, of middle, all, count or layers, and is a number of layers")


@dataclass(frozen=True)
class PruningPlan:
    """A decision to remove decoder layers from one exact checkpoint. Layer indices are the source's, ascending.

    scores: per layer in the paper's own orientation, None where the strategy gives none; score_meaning names them;
    forced: protected layers that are removed anyway; tune, freeze: INTERLACE's sets, empty elsewhere;
    relaxed: the strategy's spacing rule could not reach the budget and was widened, strict_drop is what it reached;
    statistics: sha256 of the statistics file the plan was made from, or None; original_layers: for each source layer its
    index in the first ancestor, or None if the source was never pruned.
    """

    source: SourceRef
    family: str
    budget: Budget
    strategy: str
    parameters: Mapping[str, Any]
    score_meaning: str
    scores: tuple[float | None, ...]
    protected: tuple[int, ...]
    forced: tuple[int, ...]
    drop: tuple[int, ...]
    keep: tuple[int, ...]
    tune: tuple[int, ...] = ()
    freeze: tuple[int, ...] = ()
    relaxed: bool = False
    strict_drop: tuple[int, ...] = ()
    statistics: str | None = None
    original_layers: tuple[int, ...] | None = None
    format: int = PLAN_FORMAT

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        """The layer map and what goes, for `print(plan)`."""
        return "\n".join([*layer_map(self), "", *removal_lines(self)])

    @property
    def layers(self) -> int:
        """L, the number of layers of the source."""
        return len(self.drop) + len(self.keep)

    def kept_original_layers(self) -> tuple[int, ...]:
        """For each layer of the pruned model its index in the first ancestor."""
        return tuple(i if self.original_layers is None else self.original_layers[i] for i in self.keep)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, keys in the order of the fields, `format` first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["source"] = vars(self.source)
        values["budget"] = vars(self.budget)
        values["parameters"] = dict(self.parameters)
        values["scores"] = {str(layer): score for layer, score in enumerate(self.scores)}
        lists = {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
        return {"format": values.pop("format"), **values, **lists}

    def save(self, path: Path | str) -> None:
        write_atomic(Path(path), dump_json(self.to_dict()))

    @classmethod
    def load(cls, path: Path | str) -> PruningPlan:
        """Read `plan.json`; ArtifactError if it is damaged, from a newer version, or contradicts itself."""
        return cls.from_dict(read_json(Path(path), "plan"), str(path))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> PruningPlan:
        check_format(value.get("format"), PLAN_FORMAT, "plan", where)
        known = {field.name for field in fields(cls)}
        if wrong := sorted(known ^ value.keys()):
            state = "unknown" if wrong[0] in value else "missing"
            raise ArtifactError(f"{where}: the plan's key {wrong[0]!r} is {state}.")
        for key, kind in _TYPES.items():
            if not isinstance(value[key], kind):
                raise ArtifactError(f"{where}: the plan's {key!r} is {shown(value[key])}, expected {getattr(kind, '__name__', kind)}.")
        try:
            plan = dict(value)
            plan["source"] = SourceRef(**value["source"])
            plan["budget"] = Budget(**value["budget"])
            plan["scores"] = tuple(value["scores"][str(layer)] for layer in range(len(value["scores"])))
            for key in ("protected", "forced", "drop", "keep", "tune", "freeze", "strict_drop", "original_layers"):
                plan[key] = None if value[key] is None and key == "original_layers" else _indices(key, value[key])
            return cls(**plan)
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{where}: the plan is damaged ({error!r}).") from error

    def for_source(self, source: SourceRef) -> PruningPlan:
        """This plan under the name by which its source is known now; ArtifactError if that is another checkpoint."""
        if source.fingerprint != self.source.fingerprint:
            raise ArtifactError(
                f"the plan is for {self.source.id} with fingerprint {self.source.fingerprint[:12]}, but {source.id} has "
                f"{source.fingerprint[:12]}: another model or another revision. Make a new plan for it."
            )
        return replace(self, source=source)


_TYPES = {"family": str, "strategy": str, "score_meaning": str, "parameters": dict, "relaxed": bool, "statistics": str | None}


def _indices(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        raise ArtifactError(f"the plan's {key!r} is not a list of layer numbers: {value!r}.")
    return tuple(value)


def _check(plan: PruningPlan) -> None:
    """Raise ArtifactError where the plan contradicts itself, as a plan edited by hand may."""
    drop, keep, everything = set(plan.drop), set(plan.keep), set(range(plan.layers))
    if both := sorted(drop & keep):
        raise ArtifactError(f"the plan both drops and keeps layer {both[0]}.")
    if drop | keep != everything:
        missing = sorted(everything - drop - keep)
        raise ArtifactError(f"the plan's drop and keep are not the layers 0-{plan.layers - 1} once each; layer {missing[0]} is in neither.")
    for key in ("protected", "forced", "drop", "keep", "tune", "freeze", "strict_drop"):
        layers = getattr(plan, key)
        if list(layers) != sorted(set(layers)) or not set(layers) <= everything:
            raise ArtifactError(f"the plan's {key!r} must be ascending layers between 0 and {plan.layers - 1}: {list(layers)}.")
    if not drop or not keep:
        raise ArtifactError("the plan removes no layer." if not drop else "the plan removes every layer.")
    if unforced := sorted(drop & set(plan.protected) - set(plan.forced)):
        raise ArtifactError(f"the plan drops layer {unforced[0]}, which it protects; list it under 'forced' to remove it anyway.")
    if len(drop) != plan.budget.layers:
        raise ArtifactError(f"the plan's budget is {plan.budget.layers} layers, but it drops {len(drop)}.")
    if lost := sorted((set(plan.tune) | set(plan.freeze)) & drop):
        raise ArtifactError(f"the plan tunes or freezes layer {lost[0]}, which it drops.")
    if both := sorted(set(plan.tune) & set(plan.freeze)):
        raise ArtifactError(f"the plan both tunes and freezes layer {both[0]}.")
    if idle := sorted(set(plan.forced) - drop):
        raise ArtifactError(f"the plan forces layer {idle[0]}, which it does not drop.")
    if len(plan.scores) != plan.layers or any(s is not None and not _is_number(s) for s in plan.scores):
        raise ArtifactError(f"the plan's scores must be a finite number or null for each of the {plan.layers} layers.")
    if plan.original_layers is not None and len(plan.original_layers) != plan.layers:
        raise ArtifactError(f"the plan's original_layers name {len(plan.original_layers)} layers of {plan.layers}.")
    if plan.original_layers is not None and (
        list(plan.original_layers) != sorted(set(plan.original_layers)) or plan.original_layers[0] < 0
    ):
        raise ArtifactError(f"the plan's original_layers must be ascending and not negative: {list(plan.original_layers)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
