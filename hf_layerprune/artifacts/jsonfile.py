"""Read and write files whole or not at all, JSON without surprises, and records by the types of their fields."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_layerprune.errors import ArtifactError, shown

Value = TypeVar("Value")

MAX_JSON_BYTES = 64 << 20
MAX_DEPTH = 64
NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR)  # of folders, that is


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, durable once this returns.

    Raises ArtifactError naming the path when the file system refuses.
    """
    try:
        handle, staging = tempfile.mkstemp(dir=path.parent, prefix=".layerprune-", suffix=".tmp")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot write there: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staging, 0o644)
        os.replace(staging, path)
    except OSError as error:
        raise ArtifactError(
            f"{path}: writing failed: {error.strerror}; nothing was changed. Free space or choose another place."
        ) from error
    finally:
        with suppress(OSError):
            os.unlink(staging)
    try:
        fsync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path}: written, but the disk did not confirm it: {error.strerror}. Check the disk.") from error


def kept_folder(kind: str) -> Path:
    """Where what is worth keeping between runs is kept: huggingface_hub's cache of what libraries derive from models and datasets.

    ArtifactError if that folder cannot be made or written to.
    """
    from huggingface_hub import cached_assets_path
    from huggingface_hub.constants import HF_ASSETS_CACHE

    try:
        folder = cached_assets_path("hf-layerprune", kind)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return folder
    except (OSError, ValueError) as error:  # ValueError where a file stands in the way
        reason = getattr(error, "strerror", None) or "a file stands in its way"
        raise ArtifactError(f"{HF_ASSETS_CACHE}: nothing can be kept there: {reason}. Name another place with HF_HOME.") from error


def fsync_folder(folder: Path) -> None:
    """Make renames within a folder durable; file systems that cannot (some network ones) are left as they are.

    OSError as the system raises it where the disk fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, *NO_FSYNC):
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
    finally:
        os.close(handle)


def read_bounded(path: Path, what: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; ArtifactError naming it otherwise, a pipe or device unread."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path}: not a regular file. Pass the {what} itself.")
        if status.st_size > limit:
            raise ArtifactError(f"{path}: {status.st_size:,} bytes is too large for a {what}; at most {limit:,} are read.")
        return path.read_bytes()
    except OSError as error:
        hint = " Check its name." if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
        raise ArtifactError(f"{path}: cannot read the {what}: {error.strerror}.{hint}") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object of at most 64 MiB. `what` names it in errors, such as "plan"."""
    return parse_json(read_bounded(path, what, MAX_JSON_BYTES), f"{path}", what)


def parse_json(content: bytes, where: str, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8 (a byte-order mark is accepted), no NaN, no duplicate key, nested 64 deep at most."""
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise ValueError(f"expected a JSON object, got {type(value).__name__}")
        if _depth(value) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    except (ValueError, RecursionError, MemoryError) as error:
        reason = {RecursionError: "nested too deep", MemoryError: "it takes more memory than there is"}.get(type(error), str(error))
        raise ArtifactError(f"{where}: not a valid {what}: {reason}.") from error
    return value


def check_format(value: object, known: int, what: str, where: str) -> None:
    """ArtifactError unless a file's `format` is the one that this version reads and writes."""
    if type(value) is not int or value != known:
        raise ArtifactError(f"{where}: {what} format {value!r}; this version reads {known}. Update hf-layerprune.")


def read_record(kind: type[Value], path: Path, what: str, known: int) -> Value:
    """Read a dataclass that was written as JSON with its `format`; ArtifactError if it is damaged or not of the format `known`."""
    value = read_json(path, what)
    check_format(value.pop("format", None), known, what, str(path))
    return record_of(kind, value, what, str(path))


def record_of(kind: type[Value], value: Any, what: str, where: str) -> Value:
    """`from_json`, with an ArtifactError naming `where` for a value that does not fit or that the dataclass refuses."""
    try:
        return from_json(kind, value, f"the {what}")
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{where}: the {what} is damaged: {error}.") from error


def from_json(kind: type[Value], value: Any, name: str) -> Value:
    """A dataclass whose fields are scalars, literals, `X | Y`, `tuple[X, ...]`, `Mapping[str, X]`, dataclasses like it or anything.

    name: what to call the value in errors, such as "the plan". A field with a default may be missing. ValueError naming the key
    that is missing, unexpected, or of another type; whole numbers are floats too.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {shown(value)}, expected an object")
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}  # type: ignore[arg-type]
    kinds = get_type_hints(kind)
    if missing := [key for key, needed in known.items() if needed and key not in value]:
        raise ValueError(f"{name} lacks the key {missing[0]!r}")
    if unexpected := sorted(value.keys() - known.keys()):
        raise ValueError(f"{name} has an unexpected key {shown(unexpected[0])}")
    return kind(**{key: _typed(kinds[key], item, f"{name}.{key}") for key, item in value.items()})


def _typed(kind: Any, value: Any, name: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kinds = [one for one in inner if type(value) is one] or [one for one in inner if one is not NoneType]
        return None if value is None and NoneType in inner else _typed(kinds[0], value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(inner[0], item, name) for item in value)
    if (origin is Literal and value in inner) or kind is Any:
        return value
    if origin is not None and origin not in (tuple, Literal) and isinstance(value, Mapping):
        return {key: _typed(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if is_dataclass(kind):
        return from_json(kind, value, name)  # type: ignore[arg-type]
    if type(value) is int and kind is float:
        return float(value)
    if origin is not None or type(value) is not kind:
        expected = {tuple: "a list", Literal: f"one of {inner}", None: getattr(kind, "__name__", "")}.get(origin, "an object")
        raise ValueError(f"{name} is {shown(value)}, expected {expected}")
    return value


def dump_json(value: dict[str, Any]) -> bytes:
    """JSON for people and for `diff`: objects one key a line, lists on one line, keys in the order given."""
    return (_readable(value, "") + "\n").encode("utf-8")


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, whatever order its keys came in: the name of what follows from it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _readable(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(str(key), ensure_ascii=False)}: {_readable(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)} is duplicated")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _depth(value: Any) -> int:
    """How many objects and lists stand in one another."""
    inner = [item for item in (value.values() if isinstance(value, dict) else value) if isinstance(item, (dict, list))]
    return 1 + max(map(_depth, inner), default=0)
