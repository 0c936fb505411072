"""The samples of an evaluation, each a question about an image with its accepted answers, and the tasks that they make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Protocol

from PIL import Image

from hf_layerprune.artifacts.eval_report import TaskRecord

Content = str | tuple[str | None, ...]  # a text behind the images, or texts and None for each image, in their order
LETTER_HINT = "Answer with the option's letter from the given choices directly."  # as lmms-eval asks


@dataclass(frozen=True)
class Sample:
    """A question about one or more images.

    index: its number in its task
    label: what to call it in messages
    question: its text
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
    parts: tuple[str | None, ...] = ()  # the question with the places of its images, None each, where they do not all come first
    system: str = ""  # what stands before it

    @property
    def content(self) -> Content:
        """The user message, as `models.batches.chat_prompt` takes it."""
        if not self.parts:
            return self.prompt
        return (*self.parts, self.prompt.removeprefix(self.question)) if self.choices else self.parts

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
    def left_out(self) -> Sequence[str]:
        """Why records are no sample although nothing is wrong with them: they have no image."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that changes when any question, image, answer or setting does."""
        ...

    def record(self) -> TaskRecord:
        """What the report says of it."""
        ...

    def images(self, index: int) -> Sequence[Image.Image]:
        """The images of a sample, RGB; UnusableRecord if one cannot be decoded."""
        ...
