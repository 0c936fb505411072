"""Every way in which a safetensors header can lie, and every type it may hold."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.errors import CheckpointError


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def tensor(begin: Any = 0, end: Any = 4, shape: Any = (2,), dtype: Any = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


LENGTHS = {
    "zero": (0, "length is 0"),
    "more than the file": (1000, r"truncated in the header: expected 1,008 bytes, found 74"),
    "more than 100 MB": (100_000_001, "length is 100,000,001"),
    "negative as int64": (2**64 - 1, "length is 18,446,744,073,709,551,615"),
}


@pytest.mark.parametrize(("length", "message"), LENGTHS.values(), ids=LENGTHS)
def test_hostile_header_length(tmp_path: Path, length: int, message: str) -> None:
    path = write(tmp_path / "x.safetensors", {"a": tensor()}, b"1234", length)
    path.write_bytes(path.read_bytes().ljust(74, b" ")[:74])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert "x.safetensors" in str(caught.value)


HEADERS = {
    "not JSON": (b"{nonsense}", "not a valid safetensors header"),
    "not UTF-8": (b'{"\xff": 1}', "not a valid safetensors header"),
    "a list": (b"[]", "begins with"),
    "byte-order mark": (b"\xef\xbb\xbf{}", "begins with"),
    "duplicate names": (b'{"a": {}, "a": {}}', "'a' is duplicated"),
    "nested 10,000 deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested"),
    "nested 10,000 lists": (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "lone surrogate": (b'{"\\ud800": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}', "no valid text"),
    "tensor is a list": ({"a": [1]}, "'a' is"),
    "key missing": ({"a": {"dtype": "BF16", "shape": [2]}}, "'a' is"),
    "key too many": ({"a": {**tensor(), "file": "/etc/passwd"}}, "'a' is"),
    "overlap": ({"a": tensor(0, 4), "b": tensor(2, 6)}, "'b' begins at byte .* overlaps"),
    "same place": ({"a": tensor(), "b": tensor()}, "'b' begins at byte .* overlaps"),
    "hole": ({"a": tensor(0, 4), "b": tensor(6, 10)}, "'b' begins at byte .* hole"),
    "hole at the start": ({"a": tensor(2, 6)}, "'a' begins at byte .* hole"),
    "reversed": ({"a": tensor(4, 0)}, "'a' has shape"),
    "negative": ({"a": tensor(-4, 0)}, "'a' has shape"),
    "2^63": ({"a": tensor(0, 2**63)}, "'a' has shape"),
    "beyond the file": (
        {"a": tensor(0, 2**40, (2**39,))},
        r"truncated in the tensors, first in 'a': expected 1,099,511,.* bytes, found \d+",
    ),
    "floats": ({"a": tensor(0.0, 4.0)}, "'a' has shape"),
    "booleans": ({"a": tensor(False, 4)}, "'a' has shape"),
    "three offsets": ({"a": {**tensor(), "data_offsets": [0, 4, 4]}}, "'a' has shape"),
    "size does not fit": ({"a": tensor(0, 4, (3,))}, "'a', BF16 .* needs 6 bytes, but has 4"),
    "bits do not fill a byte": ({"a": tensor(0, 1, (3,), "F4")}, "needs 1.5 bytes"),
    "product overflows": ({"a": tensor(0, 4, (2**40, 2**40))}, "needs more than 2\\^63 bytes"),
    "product overflows before a zero": ({"a": tensor(0, 0, (2**62, 2**62, 0))}, "needs more than 2\\^63 bytes"),
    "100,000 hostile dimensions": ({"a": tensor(0, 4, (2**62,) * 100_000)}, "needs more than 2\\^63 bytes"),
    "negative dimension": ({"a": tensor(0, 4, (-2,))}, "'a' has shape"),
    "shape is text": ({"a": tensor(0, 4, "2")}, "'a' has shape"),
    "unknown dtype": ({"a": tensor(dtype="C128")}, "'a' has the unknown dtype 'C128'"),
    "dtype is a list": ({"a": tensor(dtype=["BF16"])}, "'a' has the unknown dtype"),
    "metadata not strings": ({"__metadata__": {"format": 1}, "a": tensor()}, "__metadata__"),
    "metadata a list": ({"__metadata__": ["pt"], "a": tensor()}, "__metadata__"),
    "metadata no text": (
        b'{"__metadata__": {"k": "\\ud800"}, "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}',
        "__metadata__",
    ),
    "metadata huge": ({"__metadata__": {"k": "x" * (1 << 20)}, "a": tensor()}, "__metadata__"),
}


@pytest.mark.parametrize(("header", "message"), HEADERS.values(), ids=HEADERS)
def test_hostile_header(tmp_path: Path, header: Any, message: str) -> None:
    path = write(tmp_path / "x.safetensors", header, b"1234")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    text = str(caught.value)
    assert "x.safetensors" in text and "\n" not in text and len(text) < 700


@pytest.mark.parametrize(
    ("cut", "message"), [(3, "expected .* found 3"), (20, "truncated in the header"), (-1, "truncated in the tensors"), (-4, "truncated")]
)
def test_truncated(tmp_path: Path, cut: int, message: str) -> None:
    path = write(tmp_path / "x.safetensors", {"a": tensor()}, b"1234")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert f"found {path.stat().st_size}" in str(caught.value)


def test_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"a": tensor()}, b"12345")
    size = path.stat().st_size
    with pytest.raises(CheckpointError, match=f"bytes follow the last tensor: expected {size - 1} bytes, found {size}"):
        read_header(path)


def test_what_the_library_writes(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.int8), "scalar": np.array(7, np.int64)}
    save_file(arrays, tmp_path / "x.safetensors", {"format": "np", "note": "ä"})
    header = read_header(tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    assert header.metadata == {"format": "np", "note": "ä"} and header.size == len(content)
    assert {name: span.shape for name, span in header.tensors.items()} == {name: array.shape for name, array in arrays.items()}
    assert all(content[header.tensors[name].begin : header.tensors[name].end] == array.tobytes() for name, array in arrays.items())


def test_absent_metadata_and_no_tensors(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x.safetensors", {}))
    assert header.metadata is None and not header.tensors


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")


BOMBS = {
    "lists": b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 300_000 + b"{}]}",
    "nested": b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}",
    "blanks": b"{" + b" " * 3_000_000,
    "a number": b'{"a":' + b"9" * 3_000_000 + b"}",
    "names": b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_that_is_a_bomb(tmp_path: Path, bomb: str) -> None:
    """Refused in linear time, in memory proportional to its size, which the format limits; brackets are counted before parsing."""
    path = write(tmp_path / "x.safetensors", BOMBS[bomb])
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*2,000,003 brackets" if bomb == "lists" else r"x\.safetensors") as caught:
        read_header(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < (2 if bomb == "lists" else 30) * len(BOMBS[bomb]) and time.monotonic() - started < 10
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_the_shortest_entries_with_brackets_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: nothing is granted to this header but what its own length grants."""
    monkeypatch.setattr("hf_layerprune.checkpoint.header.MAX_METADATA_BYTES", 0)
    raw = json.dumps({f"[0][{number}]": tensor(0, 0, (0,), "U8") for number in range(20_000)}, separators=(",", ":"))
    assert len(read_header(write(tmp_path / "x.safetensors", raw.encode())).tensors) == 20_000


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_DATA, (90 << 20, 90 << 20))
try:
    read_header(Path(sys.argv[1]))
except CheckpointError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("header", "length", "message"),
    [
        (b'{"a":[' + b'"ab",' * 4_000_000 + b"0]}", None, "not a valid safetensors header: it takes more memory than there is"),
        (b"{", 99_000_000, "a header of 99,000,000 bytes takes more memory than there is. Close other programs"),
    ],
    ids=["to parse", "to read"],
)
def test_a_header_that_does_not_fit_into_memory(tmp_path: Path, header: bytes, length: int | None, message: str) -> None:
    path = write(tmp_path / "x.safetensors", header, b"1234", length)
    os.truncate(path, max(path.stat().st_size, length or 0) + 8)
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{path}: ") and message in done.stderr and done.stderr.count("\n") == 1, done
