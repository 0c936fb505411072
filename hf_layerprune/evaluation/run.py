"""Evaluate a checkpoint, alone or against another one on the same samples, and write what was found."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.eval_report import EVAL_FORMAT, EvalReport
from hf_layerprune.artifacts.folder import ANSWERS, OTHER_ANSWERS
from hf_layerprune.artifacts.jsonfile import digest_of, kept_folder
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.data.limits import parse_max_bad
from hf_layerprune.errors import EvaluationError, UsageError
from hf_layerprune.evaluation.answers import Answer, AnswerFile, Place, answers_content, read_answers
from hf_layerprune.evaluation.bad import check_bad, check_finished
from hf_layerprune.evaluation.counting import rows, skipped
from hf_layerprune.evaluation.outputs import check_evaluation_output, default_output, finished, held, write_evaluation
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.subject import Subject
from hf_layerprune.evaluation.tasks import TaskOptions, open_tasks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """A report and the folder that it was written to; reused: it stood there already and nothing was changed."""

    report: EvalReport
    folder: Path
    reused: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How to run, which decides no answer in fp32. batch: None for one that suits the model's width; keep: the folder where answers
    are kept between runs."""

    batch: int | None = None
    max_bad: str = "1%"
    keep: Path | None = None
    overwrite: bool = False
    progress: Progress = lambda done, total: None
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        parse_max_bad(self.max_bad)
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch-size {self.batch}: at least 1 is needed.")


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    tasks: Sequence[str] = (),
    *,
    against: Checkpoint | str | Path | None = None,
    output: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    loading: Mapping[str, Any] = {},
    options: TaskOptions = TaskOptions(),  # noqa: B008  # frozen
    run: RunOptions = RunOptions(),
) -> Evaluation:
    """Ask a checkpoint the samples of `tasks`, and `against` the same ones, and write eval.json with the answers to `output`.

    tasks: `mini-math`, `mini-general`, or data specs of records with question, image and answer; both tasks of mini by default
    where it is the first ancestor. output: by default `layerprune/` in a folder that we made, else ./<name>-eval. What was answered
    before, by this model with these tasks and settings, is not asked again, whatever it was compared with.
    Raises UsageError, DataError, ModelError, EvaluationError or CheckpointError.
    """
    other = against if against is None or isinstance(against, Checkpoint) else _opened(str(against))
    target = default_output(checkpoint) if output is None else Path(output)
    opened = open_tasks(tasks, checkpoint, options, run.say)
    _check_tasks(opened, run)
    job = _Job(opened, [Subject(one, device, dtype, loading) for one in (checkpoint, other) if one is not None], run, options.asked)
    if found := finished(target, job.key):
        for task in opened:
            check_finished(task, found, parse_max_bad(run.max_bad))
        return Evaluation(found, target, reused=True)
    check_evaluation_output(target, checkpoint, run.overwrite)
    with held(target):
        report, files = job.report()
        write_evaluation(target, checkpoint, report, files)
    return Evaluation(report, target)


def evaluate_model(
    checkpoint: Checkpoint,
    tasks: str | Sequence[str] = (),
    *,
    against: Checkpoint | str | Path | None = None,
    output: Path | str | None = None,
    samples: int | None = None,
    allow_fewer: bool = False,
    scorer: str | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    max_bad: str = "1%",
    device: str = "auto",
    dtype: str = "auto",
    loading: Mapping[str, Any] = {},
    overwrite: bool = False,
    answers_folder: Path | str | None = None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> EvalReport:
    """`evaluate_checkpoint` with the command's options as arguments; see `hf-layerprune evaluate --help`."""
    return evaluate_checkpoint(
        checkpoint,
        [tasks] if isinstance(tasks, str) else tasks,
        against=against,
        output=output,
        device=device,
        dtype=dtype,
        loading=loading,
        options=TaskOptions(samples, allow_fewer, scorer, max_new_tokens, seed),
        run=RunOptions(batch_size, max_bad, Path(answers_folder) if answers_folder else None, overwrite, progress, say),
    ).report


@dataclass
class _Job:
    """The questions, and the one or two models to be asked."""

    tasks: tuple[Task, ...]
    subjects: Sequence[Subject]
    run: RunOptions
    asked: Mapping[str, Any]  # of the tasks
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)  # by fingerprint of the model

    @property
    def key(self) -> str:
        """Of everything that decides the report's scores."""
        return digest_of([EVAL_FORMAT, [self._key_of(subject) for subject in self.subjects]])

    def report(self) -> tuple[EvalReport, dict[str, bytes]]:
        """Ask, and count; the report and the files of answers beside it."""
        started = time.monotonic()
        answers = [self._answers(subject) for subject in self.subjects]
        for task in self.tasks:
            for given in answers:
                check_bad(task, given, parse_max_bad(self.run.max_bad))
        names = (ANSWERS, OTHER_ANSWERS)
        files = {name: self._content(subject, given) for name, subject, given in zip(names, self.subjects, answers)}
        report = EvalReport(
            key=self.key,
            model=self.subjects[0].source,
            against=self.subjects[1].source if len(self.subjects) > 1 else None,
            settings={**{name: subject.settings for name, subject in zip(("model", "against"), self.subjects)}, "tasks": dict(self.asked)},
            tasks=tuple(_described(task) for task in self.tasks),
            rows=rows(self.tasks, *answers),
            skipped=skipped(self.tasks, *answers),
            answers={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            environment={name: self._environment(subject) for name, subject in zip(("model", "against"), self.subjects)},
            seconds=round(time.monotonic() - started, 1),
        )
        return report, files

    def _key_of(self, subject: Subject) -> str:
        return digest_of([subject.settings, [[task.name, task.digest] for task in self.tasks]])

    def _answers(self, subject: Subject) -> dict[Place, Answer]:
        """All answers of a model: those that are kept somewhere, and the others now."""
        key = self._key_of(subject)
        file = AnswerFile((self.run.keep or kept_folder("answers")) / f"{key[:32]}.jsonl", key, self._header(subject))
        if self._is_whole(kept := self._kept(file, subject)):
            return kept
        with file.held() as appender:
            kept = self._kept(file, subject)  # another run may have finished it meanwhile
            return kept if self._is_whole(kept) else self._ask(subject, kept, appender)

    def _ask(self, subject: Subject, known: dict[Place, Answer], appender: Any) -> dict[Place, Answer]:
        from hf_layerprune.evaluation.answering import Interview, Limits
        from hf_layerprune.evaluation.subject import environment

        if known:
            self.run.say(f"going on with an interrupted evaluation of {subject.source.id}: {len(known)} of {self._total} are answered")
        loaded = subject.load()
        limits = Limits(self.run.batch or subject.batch, parse_max_bad(self.run.max_bad))
        made_in = self.environments[subject.source.fingerprint] = environment(loaded, limits.batch)
        appender.begin(known, made_in)
        interview = Interview(loaded, self.tasks, limits, known, self.run.say, appender.add)
        before = self.subjects.index(subject) * self._total
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.run.progress(before + done, len(self.subjects) * self._total)

        interview.run(progress)
        made_in["batch"] = interview.batch
        return interview.answers

    def _kept(self, file: AnswerFile, subject: Subject) -> dict[Place, Answer]:
        """What this model answered before, from the folder of answers alone: a file beside a model may be anybody's."""
        wanted = {(task.name, sample.index) for task in self.tasks for sample in task.samples}
        found, there = read_answers(file.path, file.key)
        if there and found:
            self.environments.setdefault(subject.source.fingerprint, there)
        return {place: answer for place, answer in found.items() if place in wanted}

    def _environment(self, subject: Subject) -> dict[str, Any]:
        return self.environments.get(subject.source.fingerprint, {})

    def _is_whole(self, answers: Mapping[Place, Answer]) -> bool:
        return len(answers) == self._total

    @property
    def _total(self) -> int:
        return sum(len(task.samples) for task in self.tasks)

    def _header(self, subject: Subject) -> dict[str, Any]:
        model = {"id": subject.source.id, "commit": subject.source.commit, "fingerprint": subject.source.fingerprint}
        return {"model": model, "settings": subject.settings, "tasks": [_described(task) for task in self.tasks]}

    def _content(self, subject: Subject, answers: Mapping[Place, Answer]) -> bytes:
        """The whole file in the order of the samples, whatever order they were asked in."""
        order = [answers[task.name, sample.index] for task in self.tasks for sample in task.samples]
        return answers_content(self._key_of(subject), {**self._header(subject), "environment": self._environment(subject)}, order)


def _opened(source: str) -> Checkpoint:
    found = resolve(source)
    return Checkpoint.open(found.path, found.id, found.commit)


def _check_tasks(tasks: Sequence[Task], run: RunOptions) -> None:
    for task in tasks:
        check_bad(task, {}, parse_max_bad(run.max_bad))
        if not task.samples:
            raise EvaluationError(f"{task.name}: no sample in it. Give records with question, image and answer.")


def _described(task: Task) -> dict[str, Any]:
    return {"name": task.name, "digest": task.digest, "samples": len(task.samples), "bad": len(task.bad), **task.describe()}
