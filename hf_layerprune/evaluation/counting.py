"""From answers to scores: the rows of a report, each over the samples that every model could be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_layerprune.artifacts.eval_report import Row, Tally
from hf_layerprune.evaluation.answers import Answer, Place
from hf_layerprune.evaluation.samples import Task

Answers = Mapping[Place, Answer]


def rows(tasks: Sequence[Task], model: Answers, other: Answers | None = None) -> tuple[Row, ...]:
    """A row for every subtask in the order of its first sample, then one for the whole task if it has several subtasks.

    A sample that either model could not be asked counts for neither, and is counted as bad.
    """
    found: list[Row] = []
    for task in tasks:
        subtasks = list(dict.fromkeys(sample.subtask for sample in task.samples))
        unknown = [reason for subtask, reason in task.bad.values() if subtask not in subtasks]
        parts = [_row(task, subtask, model, other) for subtask in subtasks]
        found += parts
        if len(parts) > 1 or unknown:
            found.append(_whole(task, parts, len(unknown)))
    return tuple(found)


def skipped(tasks: Sequence[Task], *answers: Answers, limit: int = 100) -> tuple[str, ...]:
    """Why samples were left out, the first `limit`, each once."""
    reasons = [reason for task in tasks for _, reason in task.bad.values()]
    reasons += [answer.bad for given in answers for _, answer in sorted(given.items()) if answer.bad]
    return tuple(dict.fromkeys(reasons))[:limit]


def _row(task: Task, subtask: str, model: Answers, other: Answers | None) -> Row:
    every = [(task.name, sample.index) for sample in task.samples if sample.subtask == subtask]
    asked = [place for place in every if not model[place].bad and (other is None or not other[place].bad)]
    bad = len(every) - len(asked) + sum(name == subtask for name, _ in task.bad.values())
    if other is None:
        return Row(task.name, subtask, bad, _tally(model, asked))
    gained = sum(model[place].correct and not other[place].correct for place in asked)
    lost = sum(other[place].correct and not model[place].correct for place in asked)
    return Row(task.name, subtask, bad, _tally(model, asked), _tally(other, asked), gained, lost)


def _whole(task: Task, parts: Sequence[Row], unknown: int) -> Row:
    """The sums of a task's subtasks: every sample counts the same."""
    others = [part.other for part in parts if part.other]
    return Row(
        task.name,
        None,
        sum(part.bad for part in parts) + unknown,
        _sum([part.model for part in parts]),
        _sum(others) if others else None,
        sum(part.gained for part in parts),
        sum(part.lost for part in parts),
    )


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(*(sum(getattr(tally, name) for tally in tallies) for name in ("samples", "correct", "truncated")))


def _tally(answers: Answers, places: Sequence[Place]) -> Tally:
    given = [answers[place] for place in places]
    return Tally(len(given), sum(answer.correct for answer in given), sum(answer.truncated for answer in given))
