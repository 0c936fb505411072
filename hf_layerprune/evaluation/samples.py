"""The samples of an evaluation, each a question about an image with its accepted answers, and the tasks that they make up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Protocol

from PIL import Image

from hf_layerprune.artifacts.eval_report import TaskRecord

LETTER_HINT = "Answer with the option's letter from the given choices directly."  # as lmms-eval asks


@dataclass(frozen=True)
class Sample:
    """A question about an image.

    index: its number in its task
    label: what to call it in messages
    answers: the accepted ones
    choices: empty unless it is multiple choice
    scorer: a name of `scoring.SCORERS`
    max_new_tokens: how long the answer may be
    """

    index: int
    label: str
    subtask: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    scorer: str
    max_new_tokens: int

    @property
    def prompt(self) -> str:
        """The text of the user message: the question as it stands; under it the choices by letter, and to answer with one."""
        if not self.choices:
            return self.question
        listed = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, self.choices)]
        return "\n".join([self.question, *listed, LETTER_HINT])


class Task(Protocol):
    """Samples under one name."""

    @property
    def name(self) -> str: ...

    @property
    def samples(self) -> tuple[Sample, ...]: ...

    @property
    def unusable(self) -> Mapping[int, tuple[str, str]]:
        """By index, the subtask ("" if unknown) of records that are no sample, and why."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that changes when any question, image, answer or setting does."""
        ...

    def record(self) -> TaskRecord:
        """What the report says of it."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image of a sample, RGB; UnusableRecord if it cannot be decoded."""
        ...
