"""Files of JSON records: lines (JSONL) or one list (LLaVA's format), read by number without holding the file in memory.

A pass over the file notes where each record begins and ends, and hashes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from hf_layerprune.data.image_files import BadRecord
from hf_layerprune.data.records import Record, check_index
from hf_layerprune.errors import DataError

MAX_RECORD_BYTES = 16 << 20  # a conversation with a picture in base64 fits; a file of one endless line does not
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

Span = tuple[int, int, int]  # where a record begins, its length in bytes (-1: too long to be read), and its line or place


@dataclass(frozen=True)
class JsonTable:
    """The records of one file. unit: "line" or "item", what its numbers count, from 1."""

    path: Path
    unit: str
    digest: str
    spans: Int64[np.ndarray, "record 3"]
    revision: None = None

    @property
    def origin(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return len(self.spans)

    def record(self, index: int) -> Record:
        """The record; BadRecord if it is too long, no JSON, or no object."""
        start, length, number = map(int, self.spans[check_index(index, len(self))])
        label = f"{self.path.name}, {self.unit} {number}"
        if length < 0:
            raise BadRecord(f"{label}: longer than {MAX_RECORD_BYTES:,} bytes")
        return Record(label, _parsed(self._read(start, length), label), self.path.parent)

    def _read(self, start: int, length: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more: {error.strerror}.") from error


def open_json(path: Path) -> JsonTable:
    """Index a .jsonl or .ndjson file, or a .json file that holds a list. DataError if it cannot be read or holds no record."""
    lines = path.suffix.lower() != ".json"
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            reader = _Hashing(file, whole)
            spans = np.fromiter(_line_spans(reader) if lines else _item_spans(reader, path), np.dtype((np.int64, 3)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    if not len(spans):
        kind = "each line must be a JSON object" if lines else "expected a list of JSON objects"
        raise DataError(f"{path}: no record in that file; {kind}.")
    return JsonTable(path, "line" if lines else "item", whole.hexdigest(), spans)


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], whole: Any) -> None:
        self._file, self._whole = file, whole

    def chunk(self) -> bytes:
        content = self._file.read(_CHUNK)
        self._whole.update(content)
        return content


def _line_spans(file: _Hashing) -> Iterator[Span]:
    """Every line that is not blank, without its end; a byte-order mark is not part of the first."""
    start, number, position, blank = 0, 1, 0, True
    while content := file.chunk():
        begin = 3 if position == 0 and content.startswith(b"\xef\xbb\xbf") else 0
        start = start or begin
        while (end := content.find(b"\n", begin)) >= 0:
            if not (blank and not content[begin:end].strip()):
                yield _span(start, position + end, number)
            begin, start, number, blank = end + 1, position + end + 1, number + 1, True
        blank = blank and not content[begin:].strip()
        position += len(content)
    if not blank:
        yield _span(start, position, number)


def _span(start: int, end: int, number: int) -> Span:
    return start, end - start if end - start <= MAX_RECORD_BYTES else -1, number


def _item_spans(file: _Hashing, path: Path) -> Iterator[Span]:
    """The items of one JSON list. Latin-1 maps bytes to characters one to one, and JSON's structure is ASCII."""
    window = _Window(file)
    window.take("\xef\xbb\xbf")
    if not window.take("["):
        raise DataError(f"{path}: a .json file of records must hold a list; for one object a line, name it .jsonl.")
    number = 0
    while not window.take("]"):
        if number and not window.take(","):
            raise DataError(f"{path}: not valid JSON at byte {window.position:,}: expected ',' or ']' after item {number}.")
        number += 1
        yield (*window.item(path, number), number)
    if window.more():
        raise DataError(f"{path}: not valid JSON at byte {window.position:,}: something follows the list.")


class _Window:
    """The part of a JSON file that is being looked at: at most one record and a chunk of it."""

    def __init__(self, file: _Hashing) -> None:
        self._file, self._text, self._at, self._before = file, "", 0, 0

    @property
    def position(self) -> int:
        """The next byte's place in the file."""
        return self._before + self._at

    def more(self) -> bool:
        """Whether anything but space comes next."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._text) or not self._grow(1):
                return self._at < len(self._text)

    def take(self, text: str) -> bool:
        """Pass over a few characters and the space before them, if they come next."""
        found = self.more() and self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def item(self, path: Path, number: int) -> tuple[int, int]:
        """Pass over one JSON value: where it begins, and its length in bytes or -1 if that is too long to be read."""
        self.more()
        start, size = self.position, _CHUNK
        while True:
            length = self._value_length()
            whole = self._at + length < len(self._text) if length else False  # a number at the end of the text might go on
            if whole or len(self._text) - self._at > 2 * MAX_RECORD_BYTES or not self._grow(size):
                break
            size *= 2
        if not length:
            raise DataError(f"{path}: item {number}, at byte {start:,}, is not valid JSON, or far longer than {MAX_RECORD_BYTES:,} bytes.")
        self._at += length
        return start, length if length <= MAX_RECORD_BYTES else -1

    def _value_length(self) -> int:
        """The length of the value that comes next; 0 if it is not, or not yet, a whole one."""
        try:
            return _DECODER.raw_decode(self._text, self._at)[1] - self._at
        except (ValueError, RecursionError):
            return 0

    def _grow(self, size: int) -> bool:
        """Forget what was passed and read at least `size` more characters, if there are so many; False at the end of the file."""
        parts, read = [self._text[self._at :]], 0
        while read < size and (content := self._file.chunk()):
            parts.append(content.decode("latin-1"))
            read += len(content)
        self._before, self._at, self._text = self.position, 0, "".join(parts)
        return read > 0


def _parsed(content: bytes, label: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise BadRecord(f"{label}: not valid JSON") from None
    if not isinstance(value, dict):
        raise BadRecord(f"{label}: a JSON {type(value).__name__}, expected an object")
    return value
