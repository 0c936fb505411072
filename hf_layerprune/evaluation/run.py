"""Evaluate a checkpoint, alone or against another one on the same samples, and write the report and the answers."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.eval_report import EVAL_FORMAT, EvalReport, EvaluatedModel, TaskSettings
from hf_layerprune.artifacts.folder import ANSWERS, OTHER_ANSWERS
from hf_layerprune.artifacts.jsonfile import digest_of, kept_folder
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.data.limits import parse_max_bad
from hf_layerprune.errors import EvaluationError, UsageError
from hf_layerprune.evaluation.answers import AnswerStore, answer_lines
from hf_layerprune.evaluation.comparison import check_finished, check_usable, rows, score, skipped
from hf_layerprune.evaluation.outputs import check_evaluation_output, default_output, finished, held, write_evaluation
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.scoring import SCORERS_VERSION
from hf_layerprune.evaluation.subject import Subject
from hf_layerprune.evaluation.tasks import TaskOptions, open_tasks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """A report and the folder that it was written to. reused: it was there already, and nothing was changed."""

    report: EvalReport
    folder: Path
    reused: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How to run, which decides no answer in fp32.

    batch: the most samples at once; None for what suits the model's width
    max_bad: the share of a task's records that may be unusable
    keep: the folder where answers are kept between runs; None for one in the cache
    overwrite: whether to replace another evaluation
    progress, say: called with done and total samples, and with a line for the user
    """

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
    """Evaluate a checkpoint on the samples of `tasks`, and `against` on the same ones, and write eval.json and the answers to `output`.

    tasks: `mini-math`, `mini-general`, or data specs of records with question, image and answer; both tasks of mini by default
        for mini and models pruned from it
    output: by default `layerprune/` in a folder that hf-layerprune wrote, else ./<name>-eval

    What this model answered before, with these tasks and settings, is not generated again, whatever it was compared with.
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
    """The tasks, and the one or two models to evaluate on them."""

    tasks: tuple[Task, ...]
    subjects: Sequence[Subject]
    run: RunOptions
    asked: TaskSettings

    @property
    def key(self) -> str:
        """Of everything that decides the report's scores."""
        return digest_of([EVAL_FORMAT, SCORERS_VERSION, [self._key_of(subject) for subject in self.subjects]])

    def report(self) -> tuple[EvalReport, dict[str, bytes]]:
        """Generate and score; the report and the files of answers beside it."""
        started = time.monotonic()
        stores = [self._answered(subject) for subject in self.subjects]
        answers = [store.answers for store in stores]
        for task in self.tasks:
            for given in answers:
                check_usable(task, given.values(), parse_max_bad(self.run.max_bad))
        contents = [self._content(subject, store) for subject, store in zip(self.subjects, stores)]
        models = [self._evaluated(*each) for each in zip(self.subjects, stores, contents)]
        report = EvalReport(
            key=self.key,
            model=models[0],
            against=models[1] if len(models) > 1 else None,
            asked=self.asked,
            tasks=tuple(task.record() for task in self.tasks),
            rows=rows(self.tasks, *answers),
            skipped=skipped(self.tasks, *answers),
            seconds=round(time.monotonic() - started, 1),
        )
        return report, dict(zip((ANSWERS, OTHER_ANSWERS), contents))

    def _key_of(self, subject: Subject) -> str:
        settings = asdict(subject.settings)
        return digest_of([subject.source.fingerprint, settings, [[task.name, task.digest] for task in self.tasks]])

    def _answered(self, subject: Subject) -> AnswerStore:
        """All answers of a model: those that are kept, and the missing ones now."""
        places = [(task.name, sample.index) for task in self.tasks for sample in task.samples]
        store = AnswerStore(self.run.keep or kept_folder("answers"), self._key_of(subject), places)
        if not store.complete:
            with store.held():
                if not store.complete:  # another run may have finished it meanwhile
                    self._answer(subject, store, len(places))
        return store

    def _answer(self, subject: Subject, store: AnswerStore, total: int) -> None:
        from hf_layerprune.evaluation.answering import Answering, Limits
        from hf_layerprune.evaluation.subject import environment

        if known := len(store.answers):
            self.run.say(f"going on with an interrupted evaluation of {subject.source.id}: {known} of {total} are answered")
        loaded = subject.load()
        limits = Limits(self.run.batch or subject.batch, parse_max_bad(self.run.max_bad))
        made_in = environment(loaded, limits.batch)
        store.begin(made_in)
        answering = Answering(loaded, store, limits, self.run.say)
        done = self.subjects.index(subject) * total

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.run.progress(done, len(self.subjects) * total)

        answering.run(self.tasks, progress)
        store.environment = replace(made_in, batch=answering.batch)

    def _evaluated(self, subject: Subject, store: AnswerStore, content: bytes) -> EvaluatedModel:
        assert store.environment is not None  # a complete store has one
        return EvaluatedModel(subject.source, subject.settings, store.environment, hashlib.sha256(content).hexdigest())

    def _content(self, subject: Subject, store: AnswerStore) -> bytes:
        """The file of answers with their samples and scores, in the order of the samples."""
        header = {
            "key": self._key_of(subject),
            "model": asdict(subject.source),
            "settings": asdict(subject.settings),
            "environment": store.environment and asdict(store.environment),
            "tasks": [asdict(task.record()) for task in self.tasks],
        }
        lines = []
        for task in self.tasks:
            for sample in task.samples:
                answer = store.answers[task.name, sample.index]
                asked = {"label": sample.label, "subtask": sample.subtask, "scorer": sample.scorer, "question": sample.prompt}
                lines.append({**asdict(answer), **asked, "expected": sample.answers, "score": score(sample, answer)})
        return answer_lines(header, lines)


def _opened(source: str) -> Checkpoint:
    found = resolve(source)
    return Checkpoint.open(found.path, found.id, found.commit)


def _check_tasks(tasks: Sequence[Task], run: RunOptions) -> None:
    for task in tasks:
        check_usable(task, (), parse_max_bad(run.max_bad))
        if not task.samples:
            raise EvaluationError(f"{task.name}: no samples. Give records with question, image and answer.")
