"""Files appear whole or not at all, and JSON is read without surprises."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.jsonfile import dump_json, parse_json, read_json, write_atomic
from hf_layerprune.errors import ArtifactError

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("name", ["plan.json", "emoji 🥞 ' \".json", "-dash.json", "x" * 200 + ".json"])
def test_a_file_is_written_whole_and_readable_by_others(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == [name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failing_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: int | KeyboardInterrupt, before: bytes | None
) -> None:
    path, error = tmp_path / "plan.json", OSError(fault, os.strerror(fault)) if isinstance(fault, int) else fault
    if before is not None:
        path.write_bytes(before)

    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ArtifactError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_atomic(path, b"new")
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path}: writing failed: {error.strerror}; nothing was changed.")
        assert caught.value.__cause__ is error
    assert os.listdir(tmp_path) == ([] if before is None else ["plan.json"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("folders_sync", [True, False])
def test_content_is_durable_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders_sync: bool) -> None:
    """The content, the rename, the folder; a file system that cannot sync folders is accepted."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        calls.append("folder" if folder else "content")
        if folder and not folders_sync:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomic(tmp_path / "plan.json", b"new")
    assert calls == ["content", "replace", "folder"] and (tmp_path / "plan.json").read_bytes() == b"new"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/plan\.json: cannot write there: No such file or directory"):
        write_atomic(tmp_path / "nowhere" / "plan.json", b"new")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1} x', "Extra data"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is duplicated"),
        (b'{"outer": {"a": 1, "a": 1}}', "the key 'a' is duplicated"),
        (b'{"a": "\xff"}', "'utf-8' codec can't decode"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_what_is_no_plain_json_object_is_refused_on_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_json(content, "plan.json", "plan")
    assert str(caught.value).startswith(f"plan.json: not a valid plan: {reason}") and "\n" not in str(caught.value)


def test_a_byte_order_mark_and_64_objects_around_a_number_are_accepted() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "plan.json", "plan") == {"a": 1}
    assert parse_json(b'{"a":' * 64 + b"1" + b"}" * 64, "plan.json", "plan")["a"]["a"]["a"]


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_what_is_dumped_is_read_back(value: dict[str, Any]) -> None:
    content = dump_json(value)
    assert content == dump_json(value)
    assert parse_json(content, "x", "x") == value == json.loads(content)


def test_the_form_is_one_key_a_line_and_lists_on_one() -> None:
    expected = '{\n  "b": [1, 2],\n  "a": {\n    "é": null\n  },\n  "c": {}\n}\n'
    assert dump_json({"b": [1, 2], "a": {"é": None}, "c": {}}) == expected.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


def test_a_file_that_is_missing_a_folder_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.json: cannot read the plan: No such file or directory"):
        read_json(tmp_path / "none.json", "plan")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for a writer, for ever
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArtifactError, match=f"{path}: not a regular file. Pass the plan itself"):
            read_json(path, "plan")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate((64 << 20) + 1)  # sparse: it takes no space, and is not read
    with pytest.raises(ArtifactError, match="67,108,865 bytes is too large for a plan; at most 67,108,864 are read"):
        read_json(huge, "plan")
