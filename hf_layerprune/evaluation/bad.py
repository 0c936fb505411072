"""How many bad records are too many for a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.data.limits import percent
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation.answers import Answer, Place
from hf_layerprune.evaluation.samples import Task


def check_bad(task: Task, answers: Mapping[Place, Answer], max_bad: Decimal) -> None:
    """EvaluationError if more of a task's records are bad than `max_bad` allows."""
    reasons = [reason for _, reason in task.bad.values()]
    reasons += [answer.bad for (name, _), answer in answers.items() if name == task.name and answer.bad]
    _refuse_beyond(task, len(reasons), reasons, max_bad)


def check_finished(task: Task, report: EvalReport, max_bad: Decimal) -> None:
    """The same of an evaluation that was finished under another limit."""
    _refuse_beyond(task, report.row(task.name).bad, report.skipped, max_bad)


def _refuse_beyond(task: Task, bad: int, reasons: Sequence[str], max_bad: Decimal) -> None:
    total = len(task.samples) + len(task.bad)
    if bad > int(max_bad * total):
        raise EvaluationError(
            f"{'; '.join(reasons[:3])}. That makes {bad} bad of {total} records of {task.name}, more than the "
            f"{int(max_bad * total)} that --max-bad {percent(max_bad)} allows. Mend or remove them, or raise --max-bad."
        )
