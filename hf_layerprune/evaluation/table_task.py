"""A task from records: a JSONL or Parquet file, a folder of them, or a dataset on the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from PIL import Image

from hf_layerprune.artifacts.eval_report import TaskRecord
from hf_layerprune.data.conversations import Turn, conversation, layout_of, turns_of
from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.records import LeftOut, Record, RecordTable, UnusableRecord
from hf_layerprune.errors import shown
from hf_layerprune.evaluation.mentions import place_of
from hf_layerprune.evaluation.samples import Sample
from hf_layerprune.evaluation.scoring import SCORERS

FIELDS = ("question", "image", "answer")
TABLE_TOKENS = {"choice": 32, "exact": 256, "relaxed": 256}  # by scorer; a model that thinks first needs --max-new-tokens
MAX_CHOICES = 26


@dataclass(frozen=True)
class TableTask:
    """All records of a table.

    scorer: for records that name none; None for `choice` where there are choices, else `exact`
    max_new_tokens: None for those of the scorer
    spec: what names the table for others, as DataSpec.parse takes it
    """

    name: str
    table: RecordTable
    seed: int = 0
    scorer: str | None = None
    max_new_tokens: int | None = None
    spec: str = ""

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self._read[0]

    @property
    def unusable(self) -> Mapping[int, tuple[str, str]]:
        return self._read[1]

    @property
    def left_out(self) -> Sequence[str]:
        return self._read[2]

    @cached_property
    def _read(self) -> tuple[tuple[Sample, ...], dict[int, tuple[str, str]], list[str]]:
        samples: list[Sample] = []
        unusable: dict[int, tuple[str, str]] = {}
        left_out: list[str] = []
        for index in range(len(self.table)):
            subtask = ""
            try:
                record = self.table.record(index)
                subtask = _subtask(record, self.name)
                samples.append(_sample(index, record, subtask, self.scorer, self.max_new_tokens))
            except LeftOut as reason:
                left_out.append(str(reason))
            except UnusableRecord as error:
                unusable[index] = (subtask, str(error))
        return tuple(samples), unusable, left_out

    @cached_property
    def digest(self) -> str:
        """Over the records, the images that they name by path, and what the task adds to them."""
        whole = hashlib.sha256(repr([1, self.table.digest, self.scorer, self.max_new_tokens]).encode())
        for sample in self.samples:
            for image in self._refs(sample.index):
                whole.update(f"{sample.index} {image.digest}\0".encode())
        return whole.hexdigest()

    def record(self) -> TaskRecord:
        counts = len(self.samples), len(self.unusable)
        table = self.table
        return TaskRecord(self.name, self.digest, *counts, self.spec, table.origin, table.revision, self.seed, len(table))

    def images(self, index: int) -> Sequence[Image.Image]:
        return [image.load() for image in self._refs(index)]

    def _refs(self, index: int) -> tuple[ImageRef, ...]:
        """The images of the first question."""
        return next(turn for turn in turns_of(self.table.record(index)) if turn.role == "user").images


def _sample(index: int, record: Record, subtask: str, scorer: str | None, tokens: int | None) -> Sample:
    """UnusableRecord naming the record and the field that is missing or cannot be used, LeftOut if it has no image; DataError for a URL."""
    if layout_of(record) not in (None, "question"):
        return _of_conversation(index, record, subtask, scorer or "exact", tokens)
    for name in ("question", "answer"):
        if record.fields.get(name) is None:
            there = ", ".join(map(str, list(record.fields)[:8])) or "none"
            raise UnusableRecord(f"{record.label}: no field {name!r}; a task needs {', '.join(FIELDS)}, and it has {there}")
    question = record.fields["question"]
    if not isinstance(question, str) or not question.strip():
        raise UnusableRecord(f"{record.label}: 'question' is {shown(question)}, expected a text")
    asked = turns_of(record)[-1]
    if not asked.images:
        raise LeftOut(f"{record.label}: it has no image")
    choices = _texts(record, "choices") if record.fields.get("choices") is not None else ()
    name = _scorer(record, scorer or ("choice" if choices else "exact"))
    answers = _answers(record, choices)
    if name == "choice":
        _check_choices(record, choices, answers)
    return _asked(Sample(index, record.label, subtask, question, answers, choices, name, tokens or TABLE_TOKENS[name]), asked)


def _of_conversation(index: int, record: Record, subtask: str, scorer: str, tokens: int | None) -> Sample:
    """The first question of a conversation, and the answer to it; what is said afterwards is not asked."""
    turns = conversation(record).turns
    system = turns[0].text if turns[0].role == "system" else ""
    question, answer = turns[bool(system) : bool(system) + 2]
    if not question.images:
        raise LeftOut(f"{record.label}: its first question has no image")
    name = _scorer(record, scorer)
    found = Sample(index, record.label, subtask, question.text, (answer.text.strip(),), (), name, tokens or TABLE_TOKENS[name], (), system)
    return _asked(found, question)


def _asked(sample: Sample, question: Turn) -> Sample:
    """The sample with the places of its images, unless they all come first."""
    parts = tuple(None if isinstance(part, ImageRef) else part for part in question.parts)
    first = (*[None] * len(question.images), sample.question)
    return sample if parts == first else replace(sample, question=question.text, parts=parts)


def _scorer(record: Record, otherwise: str) -> str:
    name = record.fields.get("scorer") or otherwise
    if name not in SCORERS:
        raise UnusableRecord(f"{record.label}: no scorer {shown(name)}; known are {', '.join(SCORERS)}")
    return str(name)


def _subtask(record: Record, task: str) -> str:
    """`subtask` or `category`, the task's own name if there is neither."""
    value = record.fields.get("subtask") or record.fields.get("category") or task
    if not isinstance(value, (str, int)):
        raise UnusableRecord(f"{record.label}: the subtask is {shown(value)}, expected a text")
    return " ".join(str(value).split())[:80]


def _answers(record: Record, choices: Sequence[str]) -> tuple[str, ...]:
    """The accepted answers; a whole number beside choices is a choice by its place, from 0, as ScienceQA has it."""
    value = record.fields["answer"]
    if choices and type(value) is int:
        if not 0 <= value < len(choices):
            raise UnusableRecord(f"{record.label}: answer {value} is not one of {len(choices)} choices, counted from 0")
        return (choices[value],)
    return _texts(record, "answer")


def _check_choices(record: Record, choices: Sequence[str], answers: Sequence[str]) -> None:
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise UnusableRecord(f"{record.label}: {len(choices)} 'choices', expected 2 to {MAX_CHOICES} for the scorer 'choice'")
    if wrong := [one for one in answers if place_of(one, choices) is None]:
        raise UnusableRecord(f"{record.label}: the answer {shown(wrong[0])} is none of the choices, nor the letter of one")


def _texts(record: Record, name: str) -> tuple[str, ...]:
    """A text or number, or a list of some, as texts."""
    value = record.fields[name]
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items or any(isinstance(item, bool) or not isinstance(item, (str, int, float)) for item in items):
        raise UnusableRecord(f"{record.label}: {name!r} is {shown(value)}, expected a text or a list of texts")
    return tuple(str(item) for item in items)
