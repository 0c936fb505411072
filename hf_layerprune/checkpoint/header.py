"""Read the header of a safetensors file, trusting nothing in it: every byte of the file must be accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.display import Readable
from hf_layerprune.artifacts.jsonfile import parse_json
from hf_layerprune.checkpoint.files import NOT_FETCHED, POINTER
from hf_layerprune.checkpoint.remedies import MEMORY, to_read
from hf_layerprune.errors import ArtifactError, CheckpointError, shown

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_HEADERS_BYTES = 256 << 20  # of all weight files of a checkpoint, whose headers are held together
MAX_METADATA_BYTES = 1 << 20
# A bracket can cost seventy times its own byte once it is parsed. A tensor has three, in fifty bytes at least; names may hold some.
BYTES_A_BRACKET = 8
AGAIN = "The file is damaged or incomplete; download it again."

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "C64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorSpan:
    """Where a tensor's bytes lie: from `begin` to before `end`, counted from the beginning of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, repr=False)
class Header(Readable):
    """A safetensors header."""

    tensors: Mapping[str, TensorSpan]  # by name, in the order of their bytes
    metadata: Mapping[str, str] | None  # `__metadata__`, None if absent
    data_start: int  # offset of the first tensor byte
    size: int  # bytes of the whole file


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises CheckpointError naming the file and the tensor when a length, name, type, shape or offset is not exactly what
    the format allows, or the file is longer or shorter than its tensors.
    """
    try:
        with path.open("rb") as file:
            return parse_header(file.read, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the header: {error.strerror}. {to_read(error)}") from error


def parse_header(read: Callable[[int], bytes], size: int, path: Path) -> Header:
    """As `read_header`, of a file of `size` bytes whose next bytes, as many as asked for, `read` gives."""
    prefix = read(8)
    length = int.from_bytes(prefix, "little")
    data_start = 8 + length
    if prefix == POINTER[:8]:
        raise CheckpointError(f"{path}: {NOT_FETCHED}")
    if len(prefix) < 8 or (0 < length <= MAX_HEADER_BYTES and data_start > size):
        raise CheckpointError(f"{path}: truncated in the header: expected {data_start:,} bytes, found {size:,}. {AGAIN}")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: the header's length is {length:,}, expected 1 to {MAX_HEADER_BYTES:,} bytes. {AGAIN}")
    try:
        entries = _parse(read(length), path)
        metadata = _metadata(entries.pop("__metadata__", None), path)
        spans = {name: _span(name, entry, data_start, path) for name, entry in entries.items()}
        tensors = dict(sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)))
    except MemoryError as error:
        raise CheckpointError(f"{path}: a header of {length:,} bytes takes more memory than there is. {MEMORY}") from error
    end, beyond = data_start, None
    for name, span in tensors.items():
        if span.begin != end:
            problem = "overlaps the one before it" if span.begin < end else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {shown(name)} begins at byte {span.begin:,}, expected {end:,}: it {problem}. {AGAIN}")
        end = span.end
        beyond = name if beyond is None and end > size else beyond
    if end != size:
        problem = "bytes follow the last tensor" if beyond is None else f"truncated in the tensors, first in {shown(beyond)}"
        raise CheckpointError(f"{path}: {problem}: expected {end:,} bytes, found {size:,}. {AGAIN}")
    return Header(tensors, metadata, data_start, size)


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise CheckpointError(f"{path}: the header begins with {raw[:1]!r}, expected '{{'. This is no safetensors file, or it is damaged.")
    if (brackets := raw.count(b"[") + raw.count(b"{")) > len(raw) // BYTES_A_BRACKET + MAX_METADATA_BYTES:
        raise CheckpointError(f"{path}: the header has {brackets:,} brackets in {len(raw):,} bytes, which no tensors need. {AGAIN}")
    try:
        return parse_json(raw, str(path), "safetensors header")
    except ArtifactError as error:
        raise CheckpointError(f"{error} {AGAIN}") from error


def _metadata(value: Any, path: Path) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str) and _is_text(key + item) for key, item in value.items()):
        raise CheckpointError(f"{path}: '__metadata__' is {shown(value)}, expected an object of strings. {AGAIN}")
    if (size := sum(len(key) + len(item) for key, item in value.items())) > MAX_METADATA_BYTES:
        raise CheckpointError(f"{path}: '__metadata__' holds {size:,} characters; at most {MAX_METADATA_BYTES:,} are carried along.")
    return value


def _span(name: str, entry: Any, data_start: int, path: Path) -> TensorSpan:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} is {shown(entry)}, expected dtype, shape and data_offsets. {AGAIN}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(f"{where} has the unknown dtype {shown(dtype)}; known: {', '.join(DTYPE_BITS)}.")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        place = f"shape {shown(shape)} and data_offsets {shown(offsets)}"
        raise CheckpointError(f"{where} has {place}, expected whole numbers and two ascending offsets. {AGAIN}")
    bits, nbytes = DTYPE_BITS[dtype], offsets[1] - offsets[0]
    for dimension in shape:
        bits *= dimension
        if bits >= 1 << 66:  # a product of hostile dimensions is not worked out to its end
            raise CheckpointError(f"{where}, {dtype} {shown(shape)}, needs more than 2^63 bytes, but has {nbytes:,}. {AGAIN}")
    if bits != 8 * nbytes:
        raise CheckpointError(f"{where}, {dtype} {shown(shape)}, needs {bits / 8:,.10g} bytes, but has {nbytes:,}. {AGAIN}")
    if not _is_text(name):
        raise CheckpointError(f"{path}: the tensor name {shown(name)} is no valid text. {AGAIN}")
    return TensorSpan(path, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _is_text(value: str) -> bool:
    """Whether a string can be written: JSON can spell halves of surrogate pairs, which UTF-8 cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
