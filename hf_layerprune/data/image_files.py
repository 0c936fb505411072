"""Pictures from strangers: find them in a folder or a JSONL file without listing everything, decode them without surprises."""

from __future__ import annotations

import heapq
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image, ImageOps

from hf_layerprune.errors import DataError, first_line, shown

IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .avif .heic .heif .svg .jp2 .ico .tga".split())
MAX_PIXELS = 100_000_000
MAX_LINE_BYTES = 1 << 20


class BadRecord(Exception):
    """A record that cannot be used; its text says which and why. Counted against `--max-bad`, never raised to the user."""


@dataclass(frozen=True)
class ImageRecord:
    """One record of a probe set: what to call it, and its file, or why there is none."""

    label: str
    path: Path | None
    problem: str = ""


def images_in_folder(folder: Path, limit: int) -> list[ImageRecord]:
    """The first `limit` image files below a folder by path; links to folders are not followed, memory does not grow with the rest."""
    found = heapq.nsmallest(limit, _image_paths(folder))
    if not found:
        raise DataError(f"{folder}: no image in that folder (looked for {', '.join(sorted(IMAGE_SUFFIXES)[:6])} and the like).")
    return [ImageRecord(path, folder / path) for path in found]


def images_in_jsonl(path: Path, limit: int) -> list[ImageRecord]:
    """The first `limit` records of a file of lines {"image": path}, paths relative to the file's folder and inside it."""
    records: list[ImageRecord] = []
    try:
        with path.open("rb") as lines:
            number = 0
            while len(records) < limit and (line := lines.readline(MAX_LINE_BYTES)):
                number += 1
                rest = line
                while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):  # a longer line is one bad record
                    rest = lines.readline(MAX_LINE_BYTES)
                if line.strip():
                    records.append(_jsonl_record(path, number, line))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    if not records:
        raise DataError(f'{path}: no record in that file; each line must be a JSON object such as {{"image": "photos/1.png"}}.')
    return records


def decode_image(record: ImageRecord) -> Image.Image:
    """The picture of a record as RGB: turned as its EXIF says, first frame, 16 bits scaled to 8, transparency on white.

    Raises BadRecord naming the record for whatever is no picture, is damaged, or has more than a hundred million pixels.
    """
    if record.path is None:
        raise BadRecord(f"{record.label}: {record.problem}")
    if not _is_file(record.path):
        raise BadRecord(f"{record.label}: no such file, or not a regular one")
    return _decoded(record.path, record.label)


def picture(value: Any, folder: Path | None, label: str) -> Image.Image:
    """The picture that a column of strangers' records holds, as RGB, under the same rules as `decode_image`.

    value: a path inside `folder`, the bytes of a file, `{"path": ..., "bytes": ...}` as `datasets` has it (the bytes count, if
    there are any), or a picture of Pillow's. label: of the record, for messages. Raises BadRecord naming the record for what is no
    picture; DataError for a URL: pictures are downloaded first, by the person.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return _decoded(value, label)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(value), label)
    if not _is_path(value):
        raise BadRecord(f"{label}: the picture is {shown(value)}, expected a path or the bytes of a file")
    if "://" in value:
        raise DataError(f"{label}: {value[:80]!r} is a URL; download the images first and give paths.")
    if folder is None:
        raise BadRecord(f"{label}: the picture {value[:80]!r} is not part of the record, and there is no folder that it could lie in")
    if not _inside(value, folder):
        raise BadRecord(f"{label}: {value[:80]!r} lies outside the folder of the records")
    return decode_image(ImageRecord(f"{label} ({value[:80]})", folder / value))


def _decoded(source: Path | io.BytesIO | Image.Image, label: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadRecord(f"{label}: {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                return _to_rgb(ImageOps.exif_transpose(image))
    except BadRecord:
        raise
    except Exception as error:  # the decoders raise whatever a damaged file leads them to
        raise BadRecord(f"{label}: not a picture that can be decoded ({first_line(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _image_paths(folder: Path) -> Iterator[str]:
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not os.path.isdir(entry.path):
                        yield name
        except OSError as error:
            raise DataError(f"{folder / below}: cannot list the folder: {error.strerror}.") from error


def _jsonl_record(path: Path, number: int, line: bytes) -> ImageRecord:
    label = f"{path.name}, line {number}"
    try:
        value = json.loads(line)["image"]
    except (ValueError, RecursionError):
        return ImageRecord(label, None, "not a line of JSON")
    except (KeyError, TypeError, IndexError):
        return ImageRecord(label, None, 'no field "image"')
    if not _is_path(value):
        return ImageRecord(label, None, '"image" is not a path')
    if "://" in value:
        raise DataError(f"{path}, line {number}: {value[:80]!r} is a URL; download the images first and give paths.")
    if not _inside(value, path.parent):
        return ImageRecord(label, None, f"{value[:80]!r} lies outside the folder of {path.name}")
    return ImageRecord(f"{label} ({value[:80]})", path.parent / value)


def _inside(value: str, folder: Path) -> bool:
    return not os.path.isabs(value) and Path(os.path.realpath(folder / value)).is_relative_to(os.path.realpath(folder))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one
        return False


def _is_path(value: object) -> TypeGuard[str]:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return bool(os.fsencode(value))
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
