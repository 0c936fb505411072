"""From answers to the rows of a report, each over the samples that every model could be evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.scores import Row, Tally, sign_flip
from hf_layerprune.data.records import Tolerance
from hf_layerprune.evaluation.answers import Answer, Place
from hf_layerprune.evaluation.samples import Sample, Task
from hf_layerprune.evaluation.scoring import SCORERS

Answers = Mapping[Place, Answer]
MOST_REASONS = 100


def rows(tasks: Sequence[Task], *models: Answers) -> tuple[Row, ...]:
    """A row for every subtask in the order of its first sample, then one for the whole task if it has several subtasks.

    models: the answers of one model, or of it and the one it is compared with. A sample that is unusable for either counts for neither.
    """
    return tuple(row for task in tasks for row in _task_rows(task, models))


def score(sample: Sample, answer: Answer) -> float:
    """The score of an answer in [0, 1]: 1 for a correct one, 0 for an incorrect one or an unusable sample."""
    return 0.0 if answer.unusable else float(SCORERS[sample.scorer](answer.text, sample.answers, sample.choices))


def skipped(tasks: Sequence[Task], *models: Answers) -> tuple[str, ...]:
    """Why samples were skipped, each reason once, the first MOST_REASONS."""
    reasons = [reason for task in tasks for _, reason in task.unusable.values()]
    reasons += [answer.unusable for answers in models for _, answer in sorted(answers.items()) if answer.unusable]
    return tuple(dict.fromkeys(reasons))[:MOST_REASONS]


def check_usable(task: Task, answers: Iterable[Answer], tolerance: Tolerance) -> None:
    """DataError if more of a task's records are unusable than are tolerated."""
    reasons = [reason for _, reason in task.unusable.values()]
    reasons += [answer.unusable for answer in answers if answer.task == task.name and answer.unusable]
    tolerance.check(len(reasons), len(task.samples) + len(task.unusable), f"records of {task.name}", reasons)


def check_finished(task: Task, report: EvalReport, tolerance: Tolerance) -> None:
    """The same of an evaluation that was finished under another limit."""
    unusable = report.row(task.name).unusable
    tolerance.check(unusable, len(task.samples) + len(task.unusable), f"records of {task.name}", report.skipped)


def _task_rows(task: Task, models: Sequence[Answers]) -> list[Row]:
    subtasks: list[str | None] = list(dict.fromkeys(sample.subtask for sample in task.samples))
    if len(subtasks) > 1 or any(subtask not in subtasks for subtask, _ in task.unusable.values()):
        subtasks.append(None)
    return [_row(task, subtask, models) for subtask in subtasks]


def _row(task: Task, subtask: str | None, models: Sequence[Answers]) -> Row:
    every = [sample for sample in task.samples if subtask in (None, sample.subtask)]
    given = [[answers[task.name, sample.index] for answers in models] for sample in every]
    usable = [(sample, answers) for sample, answers in zip(every, given, strict=True) if not any(one.unusable for one in answers)]
    unusable = len(every) - len(usable) + sum(subtask in (None, name) for name, _ in task.unusable.values())
    scores = [[score(sample, answers[side]) for sample, answers in usable] for side in range(len(models))]
    tallies = [_tally(scores[side], [answers[side] for _, answers in usable]) for side in range(len(models))]
    if len(models) == 1:
        return Row(task.name, subtask, unusable, tallies[0])
    differences = [one - two for one, two in zip(*scores, strict=True)]
    pairs = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    binary = all(tally.binary for tally in tallies)
    squares, p = (None, None) if binary else (float(sum(value * value for value in differences)), sign_flip(differences))
    return Row(task.name, subtask, unusable, tallies[0], tallies[1], *pairs, squares, p)


def _tally(scores: Sequence[float], answers: Sequence[Answer]) -> Tally:
    truncated = sum(answer.truncated for answer in answers)
    if set(scores) <= {0, 1}:
        return Tally(len(scores), int(sum(scores)), truncated)
    return Tally(len(scores), float(sum(scores)), truncated, float(sum(value * value for value in scores)))
