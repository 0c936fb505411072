"""Generate the answers of one model to all samples, in batches of one kind and length, where they are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from hf_layerprune.data.records import Tolerance, UnusableRecord
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation.answers import Answer, AnswerStore
from hf_layerprune.evaluation.comparison import check_usable
from hf_layerprune.evaluation.generation import Generated, LoadedModel, Question, generate, out_of_memory
from hf_layerprune.evaluation.samples import Sample, Task


class Answering:
    """Adds the answers that a store lacks. batch: the most samples at once, halved for good where memory runs out."""

    def __init__(self, loaded: LoadedModel, store: AnswerStore, batch: int, tolerance: Tolerance, say: Callable[[str], None]) -> None:
        self._loaded, self._store, self._tolerance, self._say = loaded, store, tolerance, say
        self._most = self.batch = batch

    def run(self, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
        """Answer all samples; `progress` gets the number of samples that were done each time.

        DataError for too many unusable records, EvaluationError where memory does not suffice for one sample.
        """
        for task in tasks:
            for batch in batches(task, self._most):
                if missing := [sample for sample in batch if (task.name, sample.index) not in self._store.answers]:
                    answers = [answer for part in self._parts(task, missing) for answer in part]
                    self._store.add(answers)
                    if any(answer.unusable for answer in answers):
                        check_usable(task, self._store.answers.values(), self._tolerance)
                progress(len(batch))

    def _parts(self, task: Task, samples: Sequence[Sample]) -> Iterator[list[Answer]]:
        """The answers in parts that fit into memory."""
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
                f"{part[0].label}: out of memory with a single question. Use smaller images, --max-new-tokens, "
                "--dtype bfloat16 or another --device."
            )
        self.batch = len(part) // 2
        self._say(f"out of memory: going on with batches of {self.batch}")

    def _answers(self, task: Task, samples: Sequence[Sample]) -> list[Answer]:
        questions: dict[int, Question] = {}
        unusable: dict[int, str] = {}
        for sample in samples:
            try:
                questions[sample.index] = Question(sample.label, task.images(sample.index), sample.content, sample.system)
            except UnusableRecord as error:
                unusable[sample.index] = str(error)
        generated, refused = self._generate(questions, samples[0].max_new_tokens) if questions else ({}, {})
        unusable |= refused
        none = Generated("", 0, False)
        found = [(sample.index, generated.get(sample.index, none)) for sample in samples]
        return [Answer(task.name, index, one.text, one.tokens, one.truncated, unusable.get(index, "")) for index, one in found]

    def _generate(self, questions: Mapping[int, Question], budget: int) -> tuple[dict[int, Generated], dict[int, str]]:
        """Answers by index, and what the processor refuses: found one by one where a batch is refused."""
        try:
            return dict(zip(questions, generate(self._loaded, list(questions.values()), budget), strict=True)), {}
        except UnusableRecord as error:
            if len(questions) == 1:
                return {}, {index: str(error) for index in questions}
        alone = [self._generate({index: question}, budget) for index, question in questions.items()]
        return {k: v for done, _ in alone for k, v in done.items()}, {k: v for _, refused in alone for k, v in refused.items()}


def batches(task: Task, size: int) -> Iterator[Sequence[Sample]]:
    """A task's samples in batches of one subtask and token budget, whose answers are alike, by the length of the question, so that
    little is padded. The order depends on the task and the size alone."""
    counts = Counter(sample.subtask for sample in task.samples)
    groups: dict[tuple[int, str], list[Sample]] = {}
    for sample in task.samples:
        few = counts[sample.subtask] < size // 4  # such subtasks share batches
        groups.setdefault((sample.max_new_tokens, "" if few else sample.subtask), []).append(sample)
    for kind in sorted(groups):
        alike = sorted(groups[kind], key=lambda sample: (len(sample.prompt), sample.index))
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
