"""The pruning plan: which layers go, which stay, and why; and the plan as a map in text, within 80 columns.

`plan.json` is made to be read, compared and edited by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hf_layerprune.artifacts.display import Readable, html_map, one_line
from hf_layerprune.artifacts.jsonfile import check_format, dump_json, read_json, record_of, write_atomic
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError, shown

PLAN_FORMAT = 1
MANUAL = "manual"  # what a plan names as its strategy when the layers were given
LAYERS_A_ROW = 22
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "12345678"
MARKS = {"removed": ("✕", "x"), "kept": ("■", "o"), "protected": ("◆", "#"), "none": ("·", ".")}  # for all, for ASCII alone

Scores = Sequence[float | None]


@dataclass(frozen=True)
class Budget:
    """The budget as asked and as resolved."""

    asked: str | None  # the fraction as written ("0.25"), None for a count or a list of layers
    of: Literal["middle", "all", "count", "layers"]  # "middle": K = floor(p (L - 2)), "all": K = floor(p L)
    layers: int  # K, the number of layers to remove


@dataclass(frozen=True, repr=False)
class PruningPlan(Readable):
    """A decision to remove decoder layers from one exact checkpoint. Layer indices are the source's, ascending.

    Raises ArtifactError where it contradicts itself.
    """

    source: SourceRef
    family: str
    budget: Budget
    strategy: str
    parameters: Mapping[str, Any]
    score_meaning: str
    scores: tuple[float | None, ...]  # a layer each, in the paper's own orientation; None where the strategy gives none
    protected: tuple[int, ...]
    forced: tuple[int, ...]  # protected layers that are removed anyway
    drop: tuple[int, ...]
    keep: tuple[int, ...]
    tune: tuple[int, ...] = ()  # kept layers that healing trains (INTERLACE)
    freeze: tuple[int, ...] = ()  # kept layers that healing leaves as they are (INTERLACE)
    relaxed: bool = False  # the strategy's spacing rule could not reach the budget and was widened
    strict_drop: tuple[int, ...] = ()  # what the rule reached
    statistics: str | None = None  # sha256 of the statistics file the plan was made from
    original_layers: tuple[int, ...] | None = None  # for each layer its index in the first ancestor, None if never pruned
    format: int = PLAN_FORMAT

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        """The layer map and what goes, for `print(plan)`."""
        return "\n".join([*layer_map(self), "", *removal_lines(self)])

    def __repr__(self) -> str:
        goes = f"removes {len(self.drop)} of {self.layers} layers: {', '.join(map(str, self.drop))}"
        return one_line(self, shown(self.source.id), shown(self.strategy), goes)

    def _repr_html_(self) -> str:
        """The layer map, drawn."""
        lines = removal_lines(self)
        return html_map([self.fate(layer) for layer in range(self.layers)], self.scores, _heights(self.scores, self), lines)

    @property
    def layers(self) -> int:
        """L, the number of layers of the source."""
        return len(self.drop) + len(self.keep)

    def fate(self, layer: int) -> Literal["removed", "protected", "kept"]:
        """What becomes of a layer."""
        return "removed" if layer in self.drop else "protected" if layer in self.protected else "kept"

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
        if missing := [field.name for field in fields(cls) if field.name not in value]:
            raise ArtifactError(f"{where}: the plan lacks the key {missing[0]!r}.")
        scores = value["scores"]
        if not isinstance(scores, dict) or scores.keys() != {str(layer) for layer in range(len(scores))}:
            raise ArtifactError(f"{where}: the plan's scores are not an object with a key for each layer.")
        return record_of(cls, {**value, "scores": [scores[str(layer)] for layer in range(len(scores))]}, "plan", where)

    def for_source(self, source: SourceRef) -> PruningPlan:
        """This plan under the name by which its source is known now; ArtifactError if that is another checkpoint."""
        if source.fingerprint != self.source.fingerprint:
            raise ArtifactError(
                f"the plan is for {self.source.id} with fingerprint {self.source.fingerprint[:12]}, but {source.id} has "
                f"{source.fingerprint[:12]}: another model or another revision. Make a new plan for it."
            )
        return replace(self, source=source)


def layer_map(plan: PruningPlan, rows: Mapping[str, Scores] | None = None, *, ascii_only: bool = False) -> list[str]:
    """Lines of the map. rows: per label one number a layer, drawn as bars over the free layers; by default the plan's own scores."""
    if rows is None:
        rows = {"score": plan.scores} if any(score is not None for score in plan.scores) else {}
    cells = {
        "layer": [str(layer) for layer in range(plan.layers)],
        **{label: _bars(scores, plan, ascii_only) for label, scores in rows.items()},
        "": [mark(plan.fate(layer), ascii_only) for layer in range(plan.layers)],
    }
    lines = []
    for start in range(0, plan.layers, LAYERS_A_ROW):
        for label, row in cells.items():
            lines.append(f" {label:<8}" + "".join(f"{cell:>3}" for cell in row[start : start + LAYERS_A_ROW]))
    labels = {"removed": removed_label(plan), "kept": "kept", "protected": "protected"}
    legend = "   ".join(f"{mark(name, ascii_only)} {label}" for name, label in labels.items())
    return [*lines, f"          {legend}{'   taller: more redundant' if rows else ''}"]


def removal_lines(plan: PruningPlan) -> list[str]:
    """Which layers go, and which would be next; whether a rule was relaxed; where a pruned source's layers came from."""
    coming = _next(plan)
    hint = f" (next would be {coming})" if coming is not None else ""
    relaxed = " (relaxed)" if plan.relaxed else ""
    lines = [f"removed {len(plan.drop)} of {plan.layers} layers{relaxed}: {', '.join(map(str, plan.drop))}{hint}"]
    if plan.relaxed:
        reached = f"{len(plan.strict_drop)} of {len(plan.drop)}"
        lines.append(f"relaxed {plan.strategy}'s own spacing rule reaches {reached} layers; the removed ones are only not adjacent")
    if plan.original_layers is not None:
        lines.append(f"lineage the layers left are {', '.join(map(str, plan.kept_original_layers()))} of the first ancestor")
    return lines


def removed_label(plan: PruningPlan) -> str:
    """What a legend calls the removed layers: the plan's spacing rule may have been relaxed to reach its budget."""
    return "removed (relaxed)" if plan.relaxed else "removed"


def mark(name: str, ascii_only: bool) -> str:
    """The sign for what becomes of a layer: removed, kept, protected; or none, where a layer has no score."""
    return MARKS[name][ascii_only]


def _next(plan: PruningPlan) -> int | None:
    """The layer that one more would take, where the plan is the top of its scores."""
    ranked = sorted((score, layer) for layer, score in enumerate(plan.scores) if score is not None and layer not in plan.protected)
    k = len(plan.drop)
    top = tuple(sorted(layer for _, layer in ranked[-k:]))
    return ranked[-k - 1][1] if len(ranked) > k and top == plan.drop else None


def _bars(scores: Scores, plan: PruningPlan, ascii_only: bool) -> list[str]:
    glyphs = ASCII_BARS if ascii_only else BARS
    return [mark("none", ascii_only) if height is None else glyphs[height] for height in _heights(scores, plan)]


def _heights(scores: Scores, plan: PruningPlan) -> list[int | None]:
    """Of every free layer with a score its height, 0 to 7, by its rank among them: by value one far-off layer would level all others."""
    known = {layer: score for layer, score in enumerate(scores) if score is not None and layer not in plan.protected}
    ranked = sorted(known.values())
    return [round(ranked.index(known[i]) / max(len(ranked) - 1, 1) * 7) if i in known else None for i in range(plan.layers)]


def _check(plan: PruningPlan) -> None:
    """Raise ArtifactError where the plan contradicts itself, as a plan edited by hand may."""
    lists = {key: getattr(plan, key) for key in ("protected", "forced", "drop", "keep", "tune", "freeze", "strict_drop")}
    everything = set(range(plan.layers))
    protected, forced, drop, keep, tune, freeze, _ = map(set, lists.values())
    if not drop or not keep:
        raise ArtifactError("the plan removes no layer." if not drop else "the plan removes every layer.")
    for found, problem in (
        (drop & keep, "both drops and keeps layer {}"),
        (everything - drop - keep, "neither drops nor keeps layer {}"),
        (drop & protected - forced, "drops layer {}, which it protects; list it under 'forced' to remove it anyway"),
        (drop & (tune | freeze), "tunes or freezes layer {}, which it drops"),
        (tune & freeze, "both tunes and freezes layer {}"),
        (forced - drop, "forces layer {}, which it does not drop"),
    ):
        if found:
            raise ArtifactError(f"the plan {problem.format(min(found))}.")
    for key, layers in lists.items():
        if list(layers) != sorted({*layers} & everything):
            raise ArtifactError(f"the plan's {key!r} must be ascending layers between 0 and {plan.layers - 1}: {list(layers)}.")
    if len(drop) != plan.budget.layers:
        raise ArtifactError(f"the plan's budget is {plan.budget.layers} layers, but it drops {len(drop)}.")
    if len(plan.scores) != plan.layers or any(score is not None and not math.isfinite(score) for score in plan.scores):
        raise ArtifactError(f"the plan's scores must be a finite number or null for each of the {plan.layers} layers.")
    original = plan.original_layers
    if original is not None and (len(original) != plan.layers or list(original) != sorted(set(original)) or original[0] < 0):
        raise ArtifactError(f"the plan's original_layers must be {plan.layers} ascending layers, none negative: {list(original)}.")
