"""The result of an evaluation: the scores of one model, or of two on the same samples, and what decided them.

Sums alone are kept. Means, standard errors and p values follow from them; the file states them too, for other programs, and a file in
which they do not follow is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import check_format, dump_json, from_json, read_json, write_atomic
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.scores import SIGNIFICANT, Row, holm
from hf_layerprune.errors import ArtifactError, shown

EVAL_FORMAT = 1


@dataclass(frozen=True)
class TaskRecord:
    """The samples of a task."""

    name: str
    digest: str  # sha256 over all samples, images and settings
    samples: int  # how many there are to evaluate on
    unusable: int  # how many records could not be used
    spec: str  # as --tasks takes it
    origin: str  # the file, folder or dataset
    revision: str | None  # the Hub commit of a dataset
    seed: int  # of what was drawn
    records: int  # how many there are in all


@dataclass(frozen=True)
class TaskSettings:
    """What decides the samples and their scores beside the tasks, as it was asked for; None for a task's own."""

    samples: int | None
    allow_fewer: bool
    scorer: str | None
    max_new_tokens: int | None
    seed: int


@dataclass(frozen=True)
class ModelSettings:
    """What decides a model's answers beside the samples; device, dtype, device_map and attn_implementation as asked for."""

    weights: str  # sha256 over all tensors
    side_files: str  # sha256 over tokenizer, chat template, processor and generation config
    device: str
    dtype: str
    device_map: str | None
    attn_implementation: str | None
    decoding: str  # how tokens are chosen
    torch: str  # version
    transformers: str  # version


@dataclass(frozen=True)
class Environment:
    """Where and with what answers were generated."""

    device: str
    dtype: str
    attention: str
    threads: int
    batch: int  # the most samples at once
    python: str
    platform: str
    hf_layerprune: str
    torch: str
    transformers: str


@dataclass(frozen=True, repr=False)
class EvaluatedModel(Readable):
    """A model that was evaluated."""

    source: SourceRef
    settings: ModelSettings
    environment: Environment
    answers: str  # sha256 of the file of its answers

    @property
    def id(self) -> str:
        return self.source.id

    @property
    def commit(self) -> str | None:
        return self.source.commit

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint


@dataclass(frozen=True, repr=False)
class EvalReport(Readable):
    """An evaluation of `model`, compared with `against` if there is one."""

    key: str  # sha256 of everything that decides the scores
    model: EvaluatedModel
    against: EvaluatedModel | None
    asked: TaskSettings
    tasks: tuple[TaskRecord, ...]
    rows: tuple[Row, ...]  # of each task its subtasks, then the whole task if it has several
    skipped: tuple[str, ...] = ()  # why samples were skipped, the first hundred reasons
    seconds: float = 0.0  # wall time of what was answered in this run

    def __post_init__(self) -> None:
        names = [(row.task, row.subtask) for row in self.rows]
        if len(set(names)) != len(names) or any((row.other is None) != (self.against is None) for row in self.rows):
            raise ArtifactError("duplicate rows, or rows that compare with a model the report does not name.")

    def __repr__(self) -> str:
        against = () if self.against is None else (f"against {shown(self.against.id)}",)
        wholes = {row.task: row.model for row in self.rows}.values()  # a task's last row is that of the whole task
        scores = [f"{task.name} {whole.accuracy:.1f} % of {whole.samples}" for task, whole in zip(self.tasks, wholes, strict=False)]
        return one_line(self, shown(self.model.id), *against, *scores)

    def __str__(self) -> str:
        """The scores as a table of 80 columns and how they came about, for `print(report)`."""
        from hf_layerprune.artifacts.score_table import note_lines, score_lines

        return "\n".join([*score_lines(self), "", *note_lines(self)])

    def _repr_html_(self) -> str:
        from hf_layerprune.artifacts.score_table import html_scores

        return html_scores(self)

    @property
    def models(self) -> tuple[EvaluatedModel, ...]:
        return (self.model,) if self.against is None else (self.model, self.against)

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
        return f"{'better' if row.difference > 0 else 'worse'}, {f'p = {p:.3f}' if p >= 0.001 else 'p < 0.001'}"

    def row(self, task: str, subtask: str | None = None) -> Row:
        """The row of a task, or of one subtask; of a task without several subtasks its only one. KeyError if there is none."""
        found = [row for row in self.rows if row.task == task]
        exact = [row for row in found if row.subtask == subtask] or (found if subtask is None and len(found) == 1 else [])
        if not exact:
            raise KeyError((task, subtask))
        return exact[0]

    def to_dict(self) -> dict[str, Any]:
        """The file's content: the sums, and what follows from them."""
        scores: dict[str, Any] = {row.task: {"subtasks": {}, "whole": None} for row in self.rows}
        for row in self.rows:
            value = row.to_dict(self.corrected[row.task, row.subtask], self.verdict(row))
            if row.subtask is None:
                scores[row.task]["whole"] = value
            else:
                scores[row.task]["subtasks"][row.subtask] = value
        return {
            "format": EVAL_FORMAT,
            "kind": "evaluation",
            "key": self.key,
            "model": asdict(self.model),
            "against": self.against and asdict(self.against),
            "asked": asdict(self.asked),
            "tasks": [asdict(task) for task in self.tasks],
            "scores": scores,
            "skipped": list(self.skipped),
            "seconds": self.seconds,
        }

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
            raise ArtifactError(f"{path}: its numbers do not follow from its sums, or it holds others. Evaluate again.")
        return report

    @classmethod
    def _from_dict(cls, value: dict[str, Any]) -> EvalReport:
        rows = []
        for task, scores in value["scores"].items():
            rows += [Row.from_dict(task, name, row) for name, row in scores["subtasks"].items()]
            if scores["whole"] is not None:
                rows.append(Row.from_dict(task, None, scores["whole"]))
        return cls(
            key=str(value["key"]),
            model=from_json(EvaluatedModel, value["model"], "model"),
            against=None if value["against"] is None else from_json(EvaluatedModel, value["against"], "against"),
            asked=from_json(TaskSettings, value["asked"], "asked"),
            tasks=tuple(from_json(TaskRecord, task, "tasks") for task in value["tasks"]),
            rows=tuple(rows),
            skipped=tuple(map(str, value["skipped"])),
            seconds=float(value["seconds"]),
        )
