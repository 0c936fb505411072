"""Files of JSON records: lines (JSONL) or one list (LLaVA's format), read by number without holding the file in memory.

A pass over the file notes where each record begins and ends; whether it is valid is only seen when it is read, so that a damaged
record is one unusable record and is named. `datasets` would refuse the whole file, or one whose items differ in type.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from hf_layerprune.data.records import Record, RecordTable, UnusableRecord, check_index
from hf_layerprune.errors import DataError

MAX_RECORD_BYTES = 16 << 20  # a conversation with an image in base64 fits; a file of one endless line does not
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TEXT = re.compile(rb"[^ \t\r\n\v\f]")
_STRUCTURE = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]')  # a string as a whole, so that what is in it does not count

Content = bytes | mmap.mmap
Span = tuple[int, int, int]  # the first byte of a record, its length in bytes, and its line or place from 1


@dataclass(frozen=True)
class JsonTable(RecordTable):
    """The records of one file."""

    path: Path
    unit: str  # "line" or "item": what its numbers count, from 1
    spans: Int64[np.ndarray, "record 3"]  # a Span each

    def __len__(self) -> int:
        return len(self.spans)

    def label(self, index: int) -> str:
        """What to call a record in messages, whether it can be read or not."""
        return f"{self.path.name}, {self.unit} {self.spans[check_index(index, len(self)), 2]}"

    def record(self, index: int) -> Record:
        """The record; UnusableRecord if it is too long, not JSON, or not an object."""
        label = self.label(index)
        start, length, _ = map(int, self.spans[index])
        if length > MAX_RECORD_BYTES:
            raise UnusableRecord(f"{label}: longer than {MAX_RECORD_BYTES:,} bytes")
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                value = json.loads(file.read(length))
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more: {error.strerror}.") from error
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise UnusableRecord(f"{label}: not valid JSON") from None
        if not isinstance(value, dict):
            raise UnusableRecord(f"{label}: a JSON {type(value).__name__}, expected an object")
        return Record(label, value, self.path.parent)


def open_json(path: Path) -> JsonTable:
    """Index a .jsonl or .ndjson file, or a .json file that holds a list. DataError if it cannot be read or holds no record."""
    lines = path.suffix.lower() != ".json"
    try:
        with path.open("rb") as file:
            content: Content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            start = len(_BYTE_ORDER_MARK) if content[:3] == _BYTE_ORDER_MARK else 0
            found = _line_spans(content, start) if lines else _item_spans(content, start, path)
            spans, digest = np.fromiter(found, np.dtype((np.int64, 3))), hashlib.sha256(content).hexdigest()
    except (OSError, ValueError) as error:  # ValueError for a file that became empty meanwhile
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not len(spans):
        kind = 'each line must be a JSON object, such as {"image": "photos/1.png"}' if lines else "expected a list of JSON objects"
        raise DataError(f"{path}: no record in that file; {kind}.")
    return JsonTable(path.name, digest, None, path, "line" if lines else "item", spans)


def _line_spans(content: Content, start: int) -> Iterator[Span]:
    """Every line that is not blank, without its end."""
    number = 0
    while start < len(content):
        number, end = number + 1, content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if _TEXT.search(content, start, end):
            yield start, end - start, number
        start = end + 1


def _item_spans(content: Content, start: int, path: Path) -> Iterator[Span]:
    """What stands between the commas of one JSON list, leaving out those within its strings, lists and objects."""
    opening = _TEXT.search(content, start)
    if opening is None or opening[0] != b"[":
        raise DataError(f"{path}: a .json file of records must hold a list; for one object a line, name it .jsonl.")
    depth, number, begin = 1, 0, opening.end()
    for found in _STRUCTURE.finditer(content, begin):
        place, token = found.start(), content[found.start()]
        depth += (token in b"[{") - (token in b"]}")
        if depth == 0 or (depth == 1 and token in b","):
            if depth or number or _TEXT.search(content, begin, place):  # an empty list has no item
                number += 1
                yield begin, place - begin, number
            begin = found.end()
        if depth == 0:
            break
    if depth or content[begin - 1] not in b"]" or _TEXT.search(content, begin):
        raise DataError(f"{path}: not valid JSON: its list must end, at the end of the file. The last whole item is number {number}.")
