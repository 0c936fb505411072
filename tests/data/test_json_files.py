"""Lines and lists of JSON: every record found where it stands, unusable ones named, the file never held whole."""

from __future__ import annotations

import hashlib
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerprune.data.json_files import open_json
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
objects = st.dictionaries(st.text(), values, max_size=4)
spaces = st.text(" \t\r\n", max_size=3)
on_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def fields(path: Path) -> list[dict[str, Any]]:
    table = pickle.loads(pickle.dumps(open_json(path)))
    return [dict(table.record(number).fields) for number in range(len(table))]


@on_one_folder
@given(records=st.lists(objects, min_size=1), gaps=st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\n"])), mark=st.booleans())
def test_lines(tmp_path: Path, records: list[dict[str, Any]], gaps: list[bytes], mark: bool) -> None:
    content = b"\xef\xbb\xbf" * mark
    for number, record in enumerate(records):
        content += json.dumps(record, ensure_ascii=number % 2 == 0).encode() + (gaps[number] if number < len(gaps) else b"\n")
    (tmp_path / "a.jsonl").write_bytes(content)
    assert fields(tmp_path / "a.jsonl") == records
    assert open_json(tmp_path / "a.jsonl").digest == hashlib.sha256(content).hexdigest()


@on_one_folder
@given(records=st.lists(objects, min_size=1), before=spaces, between=spaces, mark=st.booleans())
def test_a_list(tmp_path: Path, records: list[dict[str, Any]], before: str, between: str, mark: bool) -> None:
    items = f"{between},{before}".join(json.dumps(record) for record in records)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" * mark + f"{before}[{between}{items}{before}]{between}".encode())
    assert fields(tmp_path / "a.json") == records


def test_lines_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'\n{"a": 1}\nnonsense\n[1]\n\n{"a": "\xff"}\n' + b"[" * 100_000 + b'\n{"a": 2}')
    table = open_json(tmp_path / "q.jsonl")
    assert [table.record(number).label for number in (0, 5)] == ["q.jsonl, line 2", "q.jsonl, line 8"]
    assert table.record(5).fields == {"a": 2} and table.record(0).folder == tmp_path and table.origin == "q.jsonl"
    for number, said in ((1, "line 3: not valid JSON"), (2, "line 4: a JSON list"), (3, "line 6: not valid"), (4, "line 7: not valid")):
        with pytest.raises(UnusableRecord, match=f"q.jsonl, {said}"):
            table.record(number)
    with pytest.raises(IndexError):
        table.record(6)


def test_one_endless_record_among_long_ones(tmp_path: Path) -> None:
    records = [{"n": n, "text": "é" * length} for n, length in enumerate((10, 524_200, 524_288, 3_000_000, 17 << 19, 5))]
    (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    for name, unit in (("a.jsonl", "line"), ("a.json", "item")):
        table = open_json(tmp_path / name)
        assert [table.record(number).fields for number in (0, 1, 2, 3, 5)] == records[:4] + records[5:] and len(table) == 6
        with pytest.raises(UnusableRecord, match=f"{name}, {unit} 5: longer than 16,777,216 bytes"):
            table.record(4)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b'{"a": 1}', "must hold a list.*name it .jsonl"),
        ("a.json", b"", "must hold a list"),
        ("a.json", b"[]", "no record in that file"),
        ("a.json", b'[{"a": 1}', "its list must end.*The last whole item is number 0"),
        ("a.json", b'[{"a": 1}, {"a": "', "The last whole item is number 1"),
        ("a.json", b'[{"a": 1}}', "its list must end"),
        ("a.json", b'[{"a": 1}]]', "its list must end, at the end of the file"),
        ("a.json", b"[" * 100_000, "The last whole item is number 0"),
        ("a.jsonl", b"\n  \n", "no record in that file; each line must be a JSON object"),
        ("a.jsonl", b"", "no record in that file"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: .*{said}"):
        open_json(tmp_path / name)


def test_a_damaged_item_is_one_unusable_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"a": "[,\\"]"}, {"a": }, {"b": 1} {"c": 2}, , [3, {}], {"a": 2},]')
    table = open_json(tmp_path / "a.json")
    assert table.record(0).fields == {"a": '[,"]'} and table.record(5).fields == {"a": 2} and len(table) == 7
    for index, said in ((1, "not valid"), (2, "not valid"), (3, "not valid"), (4, "a JSON list"), (6, "not valid")):
        with pytest.raises(UnusableRecord, match=f"a.json, item {index + 1}: {said}"):
            table.record(index)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    record = json.dumps({"text": "x" * 4000})
    separator = ",\n" if name == "a.json" else "\n"
    (tmp_path / name).write_text(("[" if name == "a.json" else "") + separator.join([record] * 8000) + ("]" if name == "a.json" else ""))
    tracemalloc.start()
    table = open_json(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 8000 and peak < 8 << 20 < (tmp_path / name).stat().st_size
