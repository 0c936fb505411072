"""What an evaluation found: for every subtask and task how many answers are correct, of one model or of two on the same samples.

Only counts are kept. Accuracies, standard errors and p values follow from them; the file states them too, for other programs,
and a file in which they do not follow is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import check_format, dump_json, read_json, write_atomic
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.significance import SIGNIFICANT, binomial_error, holm, mcnemar, paired_error, wilson_interval
from hf_layerprune.errors import ArtifactError

EVAL_FORMAT = 1


@dataclass(frozen=True)
class Tally:
    """Answers of one model. samples: all of them; correct: those that are; truncated: those that the token budget ended."""

    samples: int
    correct: int
    truncated: int

    def __post_init__(self) -> None:
        if any(type(value) is not int for value in vars(self).values()) or not 0 <= max(self.correct, self.truncated) <= self.samples:
            raise ArtifactError(
                f"invalid score: {self.correct!r} correct and {self.truncated!r} truncated answers exceed {self.samples!r} samples."
            )

    @property
    def accuracy(self) -> float:
        """Correct answers in %; nan without samples."""
        return 100 * self.correct / self.samples if self.samples else math.nan

    @property
    def error(self) -> float:
        """Its binomial standard error, in points of %."""
        return 100 * binomial_error(self.correct, self.samples)

    @property
    def spread(self) -> tuple[str, float]:
        """How sure the accuracy is, in points of %: `±` and the standard error; where it is 100 or 0, whose standard error is 0 by its
        formula, `≥` or `≤` and the bound of the 95 % Wilson interval."""
        low, high = wilson_interval(self.correct, self.samples)
        if self.correct == self.samples:
            return "≥", 100 * low
        return ("≤", 100 * high) if self.correct == 0 else ("±", self.error)


@dataclass(frozen=True)
class Row:
    """The scores on one subtask, or on a whole task if `subtask` is None.

    bad: samples that count for no model, for a picture or record that could not be used; model, other: the answers of the model
    and of the one it is compared with, on the same samples; gained: samples that only the model answered correctly; lost: only the
    other.
    """

    task: str
    subtask: str | None
    bad: int
    model: Tally
    other: Tally | None = None
    gained: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        counts = (self.bad, self.gained, self.lost)
        if any(type(value) is not int or value < 0 for value in counts):
            raise ArtifactError(f"{self.name}: {counts} are no numbers of samples.")
        pairs = self.gained - self.lost if self.other is None else self.model.correct - self.other.correct - self.gained + self.lost
        if pairs or (self.other is not None and self.other.samples != self.model.samples) or self.gained > self.model.correct:
            raise ArtifactError(f"{self.name}: the pairs do not fit the scores of both models.")

    @property
    def name(self) -> str:
        return self.task if self.subtask is None else self.subtask

    @property
    def difference(self) -> float:
        """Accuracy minus the other's, in points of % (domain-aware paper, Delta abs); nan if there is no other."""
        return self.model.accuracy - self.other.accuracy if self.other else math.nan

    @property
    def relative(self) -> float:
        """The difference in % of the other's accuracy (Delta rel); nan where that is 0."""
        return 100 * self.difference / self.other.accuracy if self.other and self.other.correct else math.nan

    @property
    def difference_error(self) -> float:
        """The standard error of the difference over the same samples, in points of %."""
        return 100 * paired_error(self.gained, self.lost, self.model.samples)

    @property
    def p(self) -> float:
        """Of the exact McNemar test, not corrected for other rows."""
        return mcnemar(self.gained, self.lost)

    @property
    def cell(self) -> str:
        """As the domain-aware paper writes it: `24.88 (-15.59, -38.5%)`, the accuracy alone without another model."""
        relative = "n/a" if math.isnan(self.relative) else f"{self.relative:+.1f}%"
        return f"{self.model.accuracy:.2f}" + (f" ({self.difference:+.2f}, {relative})" if self.other else "")


@dataclass(frozen=True)
class EvalReport:
    """An evaluation of `model`, compared with `against` if there is one.

    model, against: source and the digest of what else decides their answers; settings: what decides the answers besides models and
    samples; tasks: of each its name, origin, revision, digest, seed and number of samples; rows: a task's subtasks, then the task
    if it has several; skipped: samples left out and why, the first hundred; answers: sha256 of each file of answers, by name;
    environment: versions, device, dtype, batch size; seconds: wall time, of what was answered now.
    """

    key: str
    model: SourceRef
    against: SourceRef | None
    settings: Mapping[str, Any]
    tasks: tuple[Mapping[str, Any], ...]
    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        names = [(row.task, row.subtask) for row in self.rows]
        if len(set(names)) != len(names) or any((row.other is None) != (self.against is None) for row in self.rows):
            raise ArtifactError("the evaluation's rows stand there twice, or compare with another model than it names.")

    @cached_property
    def corrected(self) -> Mapping[tuple[str, str | None], float]:
        """The p value of each row after Holm's correction: all subtasks are one family of tests, whole tasks another."""
        found: dict[tuple[str, str | None], float] = {}
        for whole in (False, True):
            family = [row for row in self.rows if (row.subtask is None) == whole]
            found |= dict(zip([(row.task, row.subtask) for row in family], holm([row.p for row in family]), strict=True))
        return found

    def verdict(self, row: Row) -> str:
        """What to say of a difference: `worse, p < 0.001`, `better, p = 0.012`, or that none was found; "" without another model."""
        if row.other is None:
            return ""
        p = self.corrected[row.task, row.subtask]
        if not p < SIGNIFICANT:
            return "no difference found"
        return f"{'better' if row.gained > row.lost else 'worse'}, {f'p = {p:.3f}' if p >= 0.001 else 'p < 0.001'}"

    def row(self, task: str, subtask: str | None = None) -> Row:
        """The row of a task, or of one subtask; of a task without several subtasks its only one. KeyError if there is none."""
        found = [row for row in self.rows if row.task == task]
        exact = [row for row in found if row.subtask == subtask] or (found if subtask is None and len(found) == 1 else [])
        if not exact:
            raise KeyError((task, subtask))
        return exact[0]

    def to_dict(self) -> dict[str, Any]:
        """The file's content: what was counted, and what follows from it."""
        plain = {item: value for item, value in vars(self).items() if item not in ("rows", "model", "against", "corrected")}
        scores: dict[str, Any] = {row.task: {"subtasks": {}, "whole": None} for row in self.rows}
        for row in self.rows:
            if row.subtask is None:
                scores[row.task]["whole"] = self._row_dict(row)
            else:
                scores[row.task]["subtasks"][row.subtask] = self._row_dict(row)
        models = {"model": asdict(self.model), "against": self.against and asdict(self.against)}
        return {"format": EVAL_FORMAT, "kind": "evaluation", "key": self.key, **models, "scores": scores, **_jsonable(plain)}

    def save(self, path: Path | str) -> None:
        write_atomic(Path(path), dump_json(self.to_dict()))

    @classmethod
    def load(cls, path: Path | str) -> EvalReport:
        """Read an eval.json; ArtifactError if it is damaged, of another kind, newer, or edited so that it contradicts itself."""
        value = read_json(Path(path), "evaluation")
        if value.get("kind") != "evaluation":
            raise ArtifactError(f"{path}: not an evaluation. Pass an eval.json.")
        check_format(value.get("format"), EVAL_FORMAT, "evaluation", str(path))
        try:
            report = cls._from_dict(value)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error} Evaluate again.") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: the evaluation is damaged ({error!r}). Evaluate again.") from error
        if json.loads(dump_json(report.to_dict())) != value:
            raise ArtifactError(f"{path}: its numbers do not follow from its counts, or it holds others. Evaluate again.")
        return report

    @classmethod
    def _from_dict(cls, value: dict[str, Any]) -> EvalReport:
        against = value["against"]
        return cls(
            key=str(value["key"]),
            model=SourceRef(**value["model"]),
            against=None if against is None else SourceRef(**against),
            settings=dict(value["settings"]),
            tasks=tuple(map(dict, value["tasks"])),
            rows=tuple(_row_from_dict(task, *item) for task, scores in value["scores"].items() for item in _parts(scores)),
            skipped=tuple(map(str, value["skipped"])),
            answers=dict(value["answers"]),
            environment=dict(value["environment"]),
            seconds=float(value["seconds"]),
        )

    def _row_dict(self, row: Row) -> dict[str, Any]:
        scores: dict[str, Any] = {"bad": row.bad, "model": _tally_dict(row.model)}
        if row.other is None:
            return scores
        paired = {
            "gained": row.gained,
            "lost": row.lost,
            "difference": _number(row.difference),
            "relative": _number(row.relative),
            "standard_error": _number(row.difference_error),
            "p": row.p,
            "p_holm": self.corrected[row.task, row.subtask],
            "verdict": self.verdict(row),
        }
        return scores | {"against": _tally_dict(row.other), "paired": paired, "cell": row.cell}


def _parts(scores: dict[str, Any]) -> list[tuple[str | None, dict[str, Any]]]:
    """The subtasks' scores by name, then the whole task's under None if it has some."""
    return [*scores["subtasks"].items(), *([(None, scores["whole"])] if scores["whole"] is not None else [])]


def _row_from_dict(task: str, subtask: str | None, value: dict[str, Any]) -> Row:
    other, pairs = value.get("against"), value.get("paired", {})
    tallies = _tally(value["model"]), None if other is None else _tally(other)
    return Row(task, subtask, value["bad"], *tallies, pairs.get("gained", 0), pairs.get("lost", 0))


def _tally(value: dict[str, Any]) -> Tally:
    return Tally(value["samples"], value["correct"], value["truncated"])


def _tally_dict(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "accuracy": _number(tally.accuracy), "standard_error": _number(tally.error)}


def _number(value: float) -> float | None:
    """JSON has no nan: where there is no number, it says null."""
    return None if math.isnan(value) else value


def _jsonable(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(value, default=dict)))
