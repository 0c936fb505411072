"""Evaluate a checkpoint, alone or against another one on the same samples, and write the report and the answers."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_layerprune.artifacts.display import by_reason
from hf_layerprune.artifacts.eval_report import EVAL_FORMAT, EvalReport, EvaluatedModel, TaskSettings
from hf_layerprune.artifacts.folder import ANSWERS, OTHER_ANSWERS
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.data.store import kept_or_said
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation.answers import AnswerStore, answer_lines
from hf_layerprune.evaluation.comparison import check_finished, check_usable, rows, score, skipped
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.evaluation.outputs import check_evaluation_output, default_output, finished, held, write_evaluation
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.scoring import SCORERS_VERSION
from hf_layerprune.evaluation.subject import Subject
from hf_layerprune.evaluation.tasks import open_tasks

TIMED = 5.0  # seconds after which it can be told how long the rest takes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """A report and the folder that it was written to. reused: it was there already, and nothing was changed."""

    report: EvalReport
    folder: Path
    reused: bool = False


def evaluate(
    checkpoint: Checkpoint,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    against: Checkpoint | str | Path | None = None,
    output: Path | str | None = None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Evaluation:
    """Generate greedy answers of a checkpoint, and of `against` to the same samples, score them, and write eval.json and the answers.

    output: by default `layerprune/` in a folder that hf-layerprune wrote, else ./<name>-eval; progress: called with done and total
    samples; say: given lines for people. What this model answered before, with these tasks and settings, is not generated again,
    whatever it was compared with. Raises UsageError, DataError, ModelError, EvaluationError or CheckpointError.
    """
    other = against if against is None or isinstance(against, Checkpoint) else _opened(str(against))
    target = default_output(checkpoint) if output is None else Path(output)
    tasks = open_tasks(checkpoint, options, say)
    for task in tasks:
        check_usable(task, (), options.tolerance)
        for line in by_reason(task.left_out):
            say(f"note: {task.name}: left out {line}")
        if not task.samples:
            raise EvaluationError(f"{task.name}: no samples. Give records with question, image and answer.")
    job = _Job(tasks, [Subject(one, options) for one in (checkpoint, other) if one is not None], options, progress, say)
    if found := finished(target, job.key):
        for task in tasks:
            check_finished(task, found, options.tolerance)
        return Evaluation(found, target, reused=True)
    check_evaluation_output(target, checkpoint, options.overwrite)
    with held(target), ExitStack() as stack:
        kept = options.answers_folder or kept_or_said("answers", say)
        job.kept = Path(kept or stack.enter_context(TemporaryDirectory(prefix="layerprune-")))
        report, files = job.report()
        write_evaluation(target, checkpoint, report, files)
    return Evaluation(report, target)


@dataclass
class _Job:
    """The tasks, and the one or two models to evaluate on them."""

    tasks: tuple[Task, ...]
    subjects: Sequence[Subject]
    options: EvaluateOptions
    progress: Progress
    say: Callable[[str], None]
    kept: Path = Path()  # where answers are kept

    @property
    def key(self) -> str:
        """Of everything that decides the report's scores."""
        return digest_of([EVAL_FORMAT, SCORERS_VERSION, [self._key_of(subject) for subject in self.subjects]])

    def report(self) -> tuple[EvalReport, dict[str, bytes]]:
        """Generate and score; the report and the files of answers beside it."""
        started, asked = time.monotonic(), self.options
        stores = [self._answered(subject) for subject in self.subjects]
        answers = [store.answers for store in stores]
        for task in self.tasks:
            for given in answers:
                check_usable(task, given.values(), self.options.tolerance)
        contents = [self._content(subject, store) for subject, store in zip(self.subjects, stores)]
        models = [self._evaluated(*each) for each in zip(self.subjects, stores, contents)]
        report = EvalReport(
            key=self.key,
            model=models[0],
            against=models[1] if len(models) > 1 else None,
            asked=TaskSettings(asked.samples, asked.allow_fewer, asked.scorer, asked.max_new_tokens, asked.seed),
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
        store = AnswerStore(self.kept, self._key_of(subject), places)
        if not store.complete:
            with store.held():
                if not store.complete:  # another run may have finished it meanwhile
                    self._answer(subject, store, len(places))
        return store

    def _answer(self, subject: Subject, store: AnswerStore, total: int) -> None:
        from hf_layerprune.evaluation.answering import Answering
        from hf_layerprune.evaluation.subject import environment

        if known := len(store.answers):
            self.say(f"going on with an interrupted evaluation of {subject.source.id}: {known} of {total} are answered")
        loaded = subject.load()
        made_in = environment(loaded, subject.batch)
        store.begin(made_in)
        answering = Answering(loaded, store, subject.batch, self.options.tolerance, self.say)
        done = before = self.subjects.index(subject) * total

        started, told = time.monotonic(), False

        def progress(count: int) -> None:
            nonlocal done, told
            done += count
            self.progress(done, len(self.subjects) * total)
            answered, seconds = done - before - known, time.monotonic() - started
            if not told and answered > 0 and seconds > TIMED:
                told, minutes = True, seconds / answered * (total - known) / 60
                if minutes > 1:
                    self.say(f"note: {total - known:,} samples of {subject.source.id} take about {minutes:.0f} minutes")

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
