"""The answers of one model, kept in a JSONL file as they come: what was answered is never asked again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hf_layerprune.artifacts.jsonfile import write_atomic
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.errors import ArtifactError, EvaluationError

ANSWERS_FORMAT = 1
SYNC_SECONDS = 2.0
MAX_ANSWERS_BYTES = 1 << 30

Place = tuple[str, int]  # a task and the number of a sample in it


@dataclass(frozen=True)
class Answer:
    """What a model said to a sample, or why it could not be asked.

    text: without the end token; expected: the accepted answers; tokens: how many were generated; truncated: whether the budget ended it;
    bad: why the sample could not be asked, "" if it was.
    """

    task: str
    index: int
    label: str
    subtask: str
    scorer: str
    question: str
    expected: tuple[str, ...]
    text: str
    correct: bool
    tokens: int
    truncated: bool
    bad: str = ""

    def line(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True)
class AnswerFile:
    """A file of answers. key: of what decides them; described: model, settings and tasks, for whoever reads the file."""

    path: Path
    key: str
    described: Mapping[str, Any]

    def read(self) -> tuple[dict[Place, Answer], dict[str, Any]]:
        """The answers that are there and the environment that they were made in; a torn last line is left out."""
        return read_answers(self.path, self.key)

    @contextmanager
    def held(self) -> Iterator[Appender]:
        """Keep other runs off the file while answers are added.

        Raises CheckpointError if another run is writing it, EvaluationError for what the file system refuses.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with hold(self.path.with_suffix(".lock"), str(self.path)), ExitStack() as stack:
                yield Appender(self, stack)
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: answers cannot be kept there: {error.strerror or error}. Free space, or choose another place with HF_HOME."
            ) from error


class Appender:
    """Adds answers to a file; they reach the disk within SYNC_SECONDS of one another."""

    def __init__(self, file: AnswerFile, stack: ExitStack) -> None:
        self._target, self._stack = file, stack
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()

    def begin(self, known: Mapping[Place, Answer], environment: Mapping[str, Any]) -> None:
        """Write the first line and what is known already, whole or not at all: what a killed run left torn is gone then."""
        content = answers_content(self._target.key, {**self._target.described, "environment": environment}, list(known.values()))
        try:
            write_atomic(self._target.path, content)
        except ArtifactError as error:
            raise EvaluationError(str(error)) from error
        self._file = self._stack.enter_context(self._target.path.open("ab"))
        self._stack.callback(self.sync)

    def add(self, answers: Sequence[Answer]) -> None:
        """Hand a batch over to the system at once: a killed process loses none of it, a power cut what came since the last sync."""
        if self._file is None:
            raise ValueError("begin() comes first")
        self._file.write(b"".join(answer.line() for answer in answers))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def read_answers(path: Path, key: str) -> tuple[dict[Place, Answer], dict[str, Any]]:
    """The answers of a file with this key, by place, and their environment; nothing if it is no such file. A torn last line is
    left out, a damaged one too."""
    found: dict[Place, Answer] = {}
    try:
        if not path.is_file() or path.stat().st_size > MAX_ANSWERS_BYTES:
            return {}, {}
        first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    except OSError:
        return {}, {}
    header = _object(first)
    if header is None or header.get("kind") != "answers" or header.get("format") != ANSWERS_FORMAT or header.get("key") != key:
        return {}, {}
    for line in lines:
        if (value := _object(line)) is not None and (answer := _answer(value)) is not None:
            found[answer.task, answer.index] = answer
    environment = header.get("environment")
    return found, dict(environment) if isinstance(environment, dict) else {}


def answers_content(key: str, described: Mapping[str, Any], answers: Sequence[Answer]) -> bytes:
    """A whole file: a first line that says whose answers these are, then one line an answer."""
    header = {"format": ANSWERS_FORMAT, "kind": "answers", "key": key, **described}
    return json.dumps(header, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" + b"".join(one.line() for one in answers)


def _object(line: bytes) -> dict[str, Any] | None:
    """The object of a whole line; None for a torn or damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _answer(value: dict[str, Any]) -> Answer | None:
    try:
        answer = Answer(**{**value, "expected": tuple(value["expected"])})
    except (KeyError, TypeError):
        return None
    kinds = {"task": str, "index": int, "subtask": str, "text": str, "correct": bool, "truncated": bool, "tokens": int, "bad": str}
    return answer if all(type(getattr(answer, name)) is kind for name, kind in kinds.items()) else None
