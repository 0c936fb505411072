"""Ask one model all samples, in batches of questions of one kind and length, going on where an interrupted run ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from hf_layerprune.data.image_files import BadRecord
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation.answers import Answer, Place
from hf_layerprune.evaluation.bad import check_bad
from hf_layerprune.evaluation.generation import Generated, LoadedModel, Question, generate, out_of_memory
from hf_layerprune.evaluation.samples import Sample, Task
from hf_layerprune.evaluation.scoring import SCORERS

Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """batch: the most questions asked at once; max_bad: the share of a task's records that may be unusable."""

    batch: int
    max_bad: Decimal


class Interview:
    """Asks a loaded model what it was not asked yet; `answers` grows batch by batch."""

    def __init__(
        self, loaded: LoadedModel, tasks: Sequence[Task], limits: Limits, answers: dict[Place, Answer], say: Say, keep: Callable[..., None]
    ) -> None:
        self._loaded, self._tasks, self._limits, self._say, self._keep = loaded, tasks, limits, say, keep
        self.answers = answers
        self.batch = limits.batch

    def run(self, progress: Callable[[int], None]) -> None:
        """Ask; `progress` is told of the samples that are done. EvaluationError for too many bad ones, or out of memory with one."""
        for task in self._tasks:
            for batch in batches(task, self._limits.batch):
                if waiting := [sample for sample in batch if (task.name, sample.index) not in self.answers]:
                    self._ask(task, waiting)
                progress(len(batch))

    def _ask(self, task: Task, samples: Sequence[Sample]) -> None:
        done = [answer for part in self._parts(task, samples) for answer in part]
        self._keep(done)
        self.answers.update({(task.name, answer.index): answer for answer in done})
        if any(answer.bad for answer in done):
            check_bad(task, self.answers, self._limits.max_bad)

    def _parts(self, task: Task, samples: Sequence[Sample]) -> Iterator[list[Answer]]:
        """The answers in parts that fit into memory; what has run out of it once gets smaller batches for good."""
        start = 0
        while start < len(samples):
            part = samples[start : start + self.batch]
            try:
                yield self._answers(task, part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(part)
                continue
            start += len(part)

    def _halve(self, part: Sequence[Sample]) -> None:
        if len(part) == 1:
            raise EvaluationError(
                f"{part[0].label}: out of memory with a single question. Use smaller pictures, --max-new-tokens, "
                "--dtype bfloat16 or another --device."
            )
        self.batch = len(part) // 2
        self._say(f"out of memory: going on with batches of {self.batch}")

    def _answers(self, task: Task, samples: Sequence[Sample]) -> list[Answer]:
        questions: dict[int, Question] = {}
        bad: dict[int, str] = {}
        for sample in samples:
            try:
                questions[sample.index] = Question(sample.label, task.image(sample.index), sample.prompt)
            except BadRecord as error:
                bad[sample.index] = str(error)
        said, refused = self._generate(questions, samples[0].max_new_tokens) if questions else ({}, {})
        return [self._answer(task, sample, said.get(sample.index), (bad | refused).get(sample.index, "")) for sample in samples]

    def _generate(self, questions: Mapping[int, Question], budget: int) -> tuple[dict[int, Generated], dict[int, str]]:
        """Answers by number, and what the processor refused: found by asking each alone where a batch was refused."""
        try:
            return dict(zip(questions, generate(self._loaded, list(questions.values()), budget), strict=True)), {}
        except BadRecord as error:
            if len(questions) == 1:
                return {}, {number: str(error) for number in questions}
        alone = [self._generate({number: question}, budget) for number, question in questions.items()]
        return {k: v for said, _ in alone for k, v in said.items()}, {k: v for _, refused in alone for k, v in refused.items()}

    def _answer(self, task: Task, sample: Sample, said: Generated | None, bad: str) -> Answer:
        text, tokens, truncated = (said.text, said.tokens, said.truncated) if said else ("", 0, False)
        correct = said is not None and SCORERS[sample.scorer](text, sample.answers, sample.choices)
        return Answer(
            task=task.name,
            index=sample.index,
            label=sample.label,
            subtask=sample.subtask,
            scorer=sample.scorer,
            question=sample.prompt,
            expected=sample.answers,
            text=text,
            correct=correct,
            tokens=tokens,
            truncated=truncated,
            bad=bad,
        )


def batches(task: Task, size: int) -> Iterator[Sequence[Sample]]:
    """A task's samples in batches: of one subtask and budget, whose answers are alike, by the length of the question, so that little
    is padded. The order depends on the task and the size alone."""
    counts = Counter(sample.subtask for sample in task.samples)
    groups: dict[tuple[int, str], list[Sample]] = {}
    for sample in task.samples:
        few = counts[sample.subtask] < size // 4  # such subtasks are asked together
        groups.setdefault((sample.max_new_tokens, "" if few else sample.subtask), []).append(sample)
    for kind in sorted(groups):
        alike = sorted(groups[kind], key=lambda sample: (len(sample.prompt), sample.index))
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
