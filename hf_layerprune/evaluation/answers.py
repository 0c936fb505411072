"""The answers of one model, kept in a JSONL file as they are generated, so that an interrupted run goes on where it ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from hf_layerprune.artifacts.eval_report import Environment
from hf_layerprune.artifacts.jsonfile import from_json, write_atomic
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.errors import ArtifactError, EvaluationError

ANSWERS_FORMAT = 2
SYNC_SECONDS = 2.0
MAX_ANSWERS_BYTES = 1 << 30

Kind = TypeVar("Kind")
Place = tuple[str, int]  # a task's name and the index of a sample in it


@dataclass(frozen=True)
class Answer:
    """What a model answered to a sample, not scored yet.

    task, index: the sample
    text: as generated, without the end token
    tokens: how many were generated
    truncated: whether the token budget ended it, or it is a thought that does not end
    unusable: why the sample cannot be evaluated on; "" if it can
    """

    task: str
    index: int
    text: str
    tokens: int
    truncated: bool
    unusable: str = ""


class AnswerStore:
    """The answers of one model to the samples at `places`, and the file in `folder` that keeps them under `key`.

    answers: by place, those of an earlier run first; environment: where they were generated, None before any was. A file of another
    key, and lines that are torn or damaged, are as if they were not there.
    """

    def __init__(self, folder: Path, key: str, places: Collection[Place]) -> None:
        self.path = folder / f"{key[:32]}.jsonl"
        self._key, self._places = key, frozenset(places)
        self._file: IO[bytes] | None = None
        self._synced = 0.0
        self.answers: dict[Place, Answer] = {}
        self.environment: Environment | None = None
        self._read()

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self._places)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs off the file, and read again what they have added.

        Raises CheckpointError if another run is writing it, EvaluationError for what the file system refuses.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with hold(self.path.with_suffix(".lock"), str(self.path)):
                self._read()
                try:
                    yield
                finally:
                    self._close()
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: answers cannot be kept there: {error.strerror or error}. Free space, or choose another place with HF_HOME."
            ) from error

    def begin(self, environment: Environment) -> None:
        """Write the first line and the known answers, whole or not at all: what a killed run left torn is gone then."""
        self.environment = environment
        content = answer_lines({"key": self._key, "environment": asdict(environment)}, map(asdict, self.answers.values()))
        try:
            write_atomic(self.path, content)
        except ArtifactError as error:
            raise EvaluationError(str(error)) from error
        self._file = self.path.open("ab")
        self._synced = time.monotonic()

    def add(self, answers: Sequence[Answer]) -> None:
        """Hand a batch to the system at once: a killed process loses none of it, a power failure at most SYNC_SECONDS of them."""
        if self._file is None:
            raise ValueError("begin() comes first")
        self._file.write(b"".join(json_line(asdict(answer)) for answer in answers))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self.answers |= {(answer.task, answer.index): answer for answer in answers}

    def _close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _read(self) -> None:
        self.answers, self.environment = {}, None
        try:
            if not self.path.is_file() or self.path.stat().st_size > MAX_ANSWERS_BYTES:
                return
            first, *lines = self.path.read_bytes().splitlines(keepends=True) or [b""]
        except OSError:
            return
        header = _object(first)
        if [header.get(name) for name in ("kind", "format", "key")] != ["answers", ANSWERS_FORMAT, self._key]:
            return
        self.environment = _record(Environment, header.get("environment"))
        answers = [_record(Answer, _object(line)) for line in lines] if self.environment else []
        self.answers = {(one.task, one.index): one for one in answers if one and (one.task, one.index) in self._places}


def answer_lines(header: dict[str, Any], answers: Iterable[dict[str, Any]]) -> bytes:
    """A whole file: a first line that says whose answers these are, then a line an answer."""
    return b"".join(map(json_line, [{"format": ANSWERS_FORMAT, "kind": "answers", **header}, *answers]))


def json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    """The object of a whole line; empty for a torn or damaged one."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _record(kind: type[Kind], value: Any) -> Kind | None:
    try:
        return from_json(kind, value, "answer")
    except ValueError:
        return None
