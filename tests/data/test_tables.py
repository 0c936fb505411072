"""A source by its line, and what the line names: files, folders, Parquet, mini; what they draw, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.data.records import RecordTable, UnusableRecord
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError, UsageError
from hf_layerprune.mini.generator import draw_example

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
optional = st.none() | names
weights = st.decimals("0.001", "1000", allow_nan=False)


def lines(path: Path, count: int, start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"n": number}) + "\n" for number in range(start, start + count)))
    return path


def numbers(table: RecordTable) -> list[int]:
    return [table.record(index).fields["n"] for index in range(len(table))]


def test_a_folder_of_files(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", 3)
    lines(tmp_path / "a/x.ndjson", 2, 10)
    (tmp_path / "c.json").write_text('[{"n": 20}]')
    (tmp_path / "notes.txt").write_text("no records")
    (tmp_path / "again").symlink_to(tmp_path)
    table = open_table(DataSpec(str(tmp_path)))
    assert numbers(table) == [10, 11, 0, 1, 2, 20]
    assert [table.record(index).folder for index in (0, 2)] == [tmp_path / "a", tmp_path]
    assert numbers(open_table(DataSpec(str(tmp_path), subset="a"))) == [10, 11]
    before = table.digest
    lines(tmp_path / "a/x.ndjson", 2, 11)
    assert open_table(DataSpec(str(tmp_path))).digest != before


def test_a_count_is_drawn_uniformly_by_the_seed(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", 20)
    drawn = [open_table(DataSpec(str(path), count=5), seed=seed) for seed in range(600)]
    assert numbers(drawn[0]) == numbers(open_table(DataSpec(str(path), count=5), seed=0)) == sorted(set(numbers(drawn[0])))
    assert len({table.digest for table in drawn[:3]}) == 3
    seen = Counter(number for table in drawn for number in numbers(table))
    expected = 600 * 5 / 20  # each record, with a standard deviation of sqrt(600 * 1/4 * 3/4) = 10.6
    assert all(abs(seen[number] - expected) < 5 * 10.6 for number in range(20))
    assert numbers(open_table(DataSpec(str(path), count=20))) == list(range(20))
    with pytest.raises(DataError, match=r"a\.jsonl: 20 records, fewer than count=21\. Leave count out to take them all\."):
        open_table(DataSpec(str(path), count=21))


def test_a_share_of_each_file(tmp_path: Path) -> None:
    """1 % of 250 and of 40 records, rounded half up, at least one."""
    lines(tmp_path / "a.jsonl", 250)
    lines(tmp_path / "b.jsonl", 40, 1000)
    found = numbers(open_table(DataSpec(str(tmp_path)), share=Decimal("0.01")))
    assert sum(number < 1000 for number in found) == 3 and sum(number >= 1000 for number in found) == 1
    assert len(open_table(DataSpec("mini"), share=Decimal("0.01"))) == 41
    with pytest.raises(UsageError, match="a count and a share"):
        open_table(DataSpec(str(tmp_path), count=3), share=Decimal("0.5"))
    with pytest.raises(UsageError, match="share 0: expected"):
        open_table(DataSpec(str(tmp_path)), share=Decimal(0))


@pytest.fixture
def parquet() -> Any:
    """pyarrow with its module `parquet`, where `datasets` is installed."""
    pytest.importorskip("datasets")
    pytest.importorskip("pyarrow.parquet")
    return pytest.importorskip("pyarrow")


def test_parquet(tmp_path: Path, parquet: Any) -> None:
    """Copied once into an Arrow file, and read from there by row, whatever the Parquet file's row groups are."""
    rows = [
        {"n": number, "image": {"bytes": b"\x00%d" % number, "path": f"{number}.png"}, "kind": "ab"[number % 2]} for number in range(230)
    ]
    kinds = parquet.array([row["kind"] for row in rows]).dictionary_encode()
    parquet.parquet.write_table(parquet.Table.from_pylist(rows).set_column(2, "kind", kinds), tmp_path / "a.parquet", row_group_size=40)
    said: list[str] = []
    spec, cache = DataSpec(str(tmp_path / "a.parquet")), tmp_path / "cache"
    table, again = (open_table(spec, cache=cache, say=said.append) for _ in range(2))
    assert [dict(table.record(index).fields) for index in range(230)] == rows and len(said) == 1
    assert table.digest == again.digest == hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()
    assert table.record(0).folder == tmp_path and table.origin == "a.parquet"
    copy = pickle.loads(pickle.dumps(table))
    assert copy.record(229).fields == rows[229] and copy.record(229).label == "a.parquet, row 229" and copy.digest == table.digest
    assert len(pickle.dumps(table)) < 5000  # what was read stays here
    with pytest.raises(IndexError):
        table.record(230)


def test_damaged_parquet(tmp_path: Path, parquet: Any) -> None:
    """A damaged file is refused; a text that is not UTF-8 makes its row unusable, and no other."""

    def opened(name: str) -> RecordTable:
        return open_table(DataSpec(str(tmp_path / name)), cache=tmp_path / "cache")

    write = parquet.parquet.write_table
    write(parquet.table({"text": [f"{number:04}" * 50 for number in range(30)]}), tmp_path / "a.parquet", row_group_size=10)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "short.parquet").write_bytes(content[:-20])
    column = parquet.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (tmp_path / "spoilt.parquet").write_bytes(content)
    write(parquet.schema([("n", parquet.int64())]).empty_table(), tmp_path / "none.parquet")
    (tmp_path / "failing.parquet").symlink_to("/proc/self/mem")  # a disk that fails: a regular file whose first byte cannot be read
    damaged = {"short": "cannot be read as Parquet", "spoilt": "cannot be read as Parquet", "none": "no row", "failing": "cannot be read: "}
    for name, said in damaged.items():
        with pytest.raises(DataError, match=rf"{name}\.parquet: {said}"):
            opened(f"{name}.parquet")
    texts = parquet.array([b"one", b"\xff\xfe", b"three"]).cast(parquet.string(), safe=False)
    write(parquet.table({"text": texts}), tmp_path / "text.parquet")
    table = opened("text.parquet")
    assert [table.record(index).fields["text"] for index in (0, 2)] == ["one", "three"]
    with pytest.raises(UnusableRecord, match=r"text\.parquet, row 1: cannot be read"):
        table.record(1)


@pytest.mark.parametrize("name", ["a.parquet", "me/set"])
def test_without_the_package_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'need the package datasets: pip install "hf-layerprune\[train\]"'):
        open_table(DataSpec(name), cache=tmp_path)


def test_mini_is_drawn_for_healing_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_table(DataSpec("mini", count=20), seed=3)
    names = [name for domain in DOMAINS for name in subtasks(domain)]
    assert [table.record(index).fields["subtask"] for index in range(20)] == (names * 3)[:20]
    record, expected = table.record(10), draw_example(names[1], "heal", 1, seed=3)
    assert (record.fields["question"], record.fields["answer"]) == (expected.question, expected.answer)
    assert np.array_equal(record.fields["image"], expected.image) and record.folder is None
    assert len(open_table(DataSpec("mini"))) == 4096
    assert {open_table(DataSpec("mini", subset="counting", count=3)).record(index).fields["subtask"] for index in range(3)} == {"counting"}
    specs = [("mini", 3, None), ("mini", 4, None), ("mini", 3, "math")]
    digests = [open_table(DataSpec(name, subset=part, count=count), seed=seed).digest for name, count, part in specs for seed in (0, 1)]
    assert len(set(digests)) == 6
    lines(tmp_path / "mini/a.jsonl", 2)  # the built-in one is meant wherever another stands
    monkeypatch.chdir(tmp_path)
    assert len(open_table(DataSpec("mini"))) == 4096 and len(open_table(DataSpec("./mini"))) == 2


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("mini,subset=sums", UsageError, "mini has no subset 'sums'; it has math, nonmath and math-cot"),
        ("mini,split=train", UsageError, "only a dataset on the Hub has a split"),
        ("a.jsonl,split=train", UsageError, "only a dataset on the Hub has a split"),
        ("a.jsonl,subset=x", UsageError, "a single file has no subset"),
        (".,subset=x", DataError, "no folder 'x' inside"),
        (".,subset=..", DataError, "no folder '..' inside"),
        ("b.jsonl", DataError, "'b.jsonl' is neither a file or folder, nor 'mini', nor a dataset's id"),
        ("notes.txt", DataError, r"notes\.txt: not a file of records; expected \.jsonl, \.ndjson, \.json, \.parquet"),
        ("empty", DataError, "empty: no .jsonl, .ndjson, .json, .parquet file in that folder"),
        ("dangling.jsonl", DataError, "not a regular file, or a link to nothing"),
        ("pipe.jsonl", DataError, "not a regular file"),
        ("x" * 5000, DataError, "neither a file or folder"),
        ("../../etc/passwd-", DataError, "neither a file or folder"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, kind: type[Exception], said: str) -> None:
    lines(tmp_path / "a.jsonl", 1)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        open_table(DataSpec.parse(spec))


# --- the line ---


@given(st.builds(DataSpec, names, optional, optional, st.none() | st.integers(1), weights, optional))
def test_read_back(spec: DataSpec) -> None:
    assert DataSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("me/set,subset=CLEVR(M),split=val,count=100,weight=0.5,revision=v1", ("me/set", "CLEVR(M)", "val", 100, Decimal("0.5"), "v1")),
        ("math.jsonl", ("math.jsonl", None, None, None, Decimal(1), None)),
        ("my data/a=b (1).jsonl,count=2", ("my data/a=b (1).jsonl", None, None, 2)),
        ("a,,b.jsonl,subset=c,,d", ("a,b.jsonl", "c,d")),
        ("count=3", ("count=3",)),
        ("a.jsonl,subset=x=y", ("a.jsonl", "x=y")),
    ],
)
def test_a_line_is_read(text: str, spec: tuple[Any, ...]) -> None:
    assert DataSpec.parse(text) == DataSpec(*spec)


def test_a_record_names_what_others_can_find_and_no_place_on_a_disk() -> None:
    def recorded(text: str, commit: str | None = None) -> str:
        return str(DataSpec.parse(text).as_recorded(commit))

    assert recorded("me/set,subset=a,,b,count=5", "c" * 40) == f"me/set,subset=a,,b,count=5,revision={'c' * 40}"
    assert recorded("me/set,revision=main", "c" * 40) == f"me/set,revision={'c' * 40}"
    assert recorded("/home/alice/my data/math.jsonl,weight=2") == "math.jsonl,weight=2" == recorded("../../math.jsonl,weight=2")
    assert recorded("/home/alice/homework/") == "homework" and recorded("mini,count=5") == "mini,count=5" and recorded("/") == "/"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.jsonl,cuont=5", "no key 'cuont'. Did you mean 'count'"),
        ("a.jsonl,count=100,000", "'000' is not key=value.*written twice"),
        ("a.jsonl,", "'' is not key=value"),
        ("a.jsonl,count=1,count=2", "count is given twice"),
        ("a.jsonl,count=0", "count=0.*at least 1"),
        ("a.jsonl,count=1.5", "count=1.5: expected a whole number"),
        ("a.jsonl,count=٣", "expected a whole number"),
        ("a.jsonl,weight=0", "weight=0.*above 0"),
        ("a.jsonl,weight=nan", "weight=NaN"),
        ("a.jsonl,weight=x", "weight=x: expected a number"),
        ("a.jsonl,subset=", "subset= is empty"),
        ("", "has no name"),
        ("a\0b", "has no name"),
    ],
)
def test_a_slip_of_the_pen_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        DataSpec.parse(text)
    assert "\n" not in str(caught.value)
