"""Images from untrusted sources: find them in a folder or a JSONL file, and decode them or say why they cannot be used."""

from __future__ import annotations

import hashlib
import heapq
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hf_layerprune.data.json_files import open_json
from hf_layerprune.data.records import UnusableRecord, refuse_video_and_audio
from hf_layerprune.errors import DataError, first_line, shown

IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .avif .heic .heif .svg .jp2 .ico .tga".split())
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageFile:
    """An image of a probe set: what to call it, and its file, or why there is none."""

    label: str
    path: Path | None
    problem: str = ""


def images_in_folder(folder: Path, limit: int) -> list[ImageFile]:
    """The first `limit` image files below a folder by path; links to folders are not followed, memory does not grow with the rest."""
    found = heapq.nsmallest(limit, _image_paths(folder))
    if not found:
        raise DataError(f"{folder}: no image in that folder (looked for {', '.join(sorted(IMAGE_SUFFIXES)[:6])} and the like).")
    return [ImageFile(path, folder / path) for path in found]


def images_in_jsonl(path: Path, limit: int) -> list[ImageFile]:
    """The first `limit` records of a file of lines {"image": path}, paths relative to the file's folder and inside it."""
    table, found = open_json(path), []
    for index in range(min(limit, len(table))):
        label = table.label(index)
        try:
            record = table.record(index)
            refuse_video_and_audio(record)
            fields = record.fields
            if "image" not in fields:
                raise UnusableRecord(f'{label}: no field "image"')
            place = _path_inside(fields["image"], path.parent, label)
            found.append(ImageFile(f"{label} ({str(fields['image'])[:80]})", place))
        except UnusableRecord as problem:
            found.append(ImageFile(label, None, str(problem)))
    return found


def decode_file(file: ImageFile) -> Image.Image:
    """The image as RGB: turned as its EXIF says, first frame, 16 bits and floats from 0 to 1 scaled to 8 bits, transparency on white.

    Raises UnusableRecord naming the file for what is not an image, is damaged, or has more than a hundred million pixels.
    """
    if file.path is None:
        raise UnusableRecord(file.problem)
    if not os.path.isfile(file.path):
        raise UnusableRecord(f"{file.label}: no such file, or not a regular one")
    return _decoded(file.path, file.label)


def decode_value(value: Any, folder: Path | None, label: str) -> Image.Image:
    """The image that an untrusted record holds, as RGB, under the same rules as `decode_file`.

    value: a path inside `folder`, the bytes of a file, `{"path": ..., "bytes": ...}` as `datasets` has it (the bytes count, if
    there are any), or a Pillow image
    label: of the record, for messages

    Raises UnusableRecord naming the record for what is not an image; DataError for a URL, which a person must download first.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(value), label)
    if isinstance(value, Image.Image):
        return _decoded(value, label)
    return decode_file(ImageFile(f"{label} ({str(value)[:80]})", _path_inside(value, folder, label)))


def content_digest(path: Path | None) -> str:
    """sha256 of a file that a record names, or a word for why there is none: what follows from the record follows from this."""
    try:
        if path is None or not path.is_file():
            return "missing"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _path_inside(value: object, folder: Path | None, label: str) -> Path:
    """The file that a record names; UnusableRecord if it may not, or names none, DataError for a URL."""
    try:
        if not isinstance(value, str) or not value or b"\0" in os.fsencode(value):
            raise ValueError
    except ValueError:  # UnicodeEncodeError too, for half of a surrogate pair
        raise UnusableRecord(f"{label}: the image is {shown(value)}, expected a path or the bytes of a file") from None
    name = repr(value[:80])
    if "://" in value:
        raise DataError(f"{label}: {name} is a URL; download the images first and give paths.")
    if folder is None:
        raise UnusableRecord(f"{label}: the image {name} is not part of the record, and there is no folder that it could lie in")
    if not Path(os.path.realpath(folder / value)).is_relative_to(os.path.realpath(folder)):
        absolute = f" is absolute and lies outside {shown(str(folder))}; paths are relative to that folder"
        raise UnusableRecord(f"{label}: {name}{absolute if os.path.isabs(value) else ' lies outside the folder of the records'}")
    return folder / value


def _decoded(source: Path | io.BytesIO | Image.Image, label: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnusableRecord(f"{label}: {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                return _to_rgb(ImageOps.exif_transpose(image), label)
    except UnusableRecord:
        raise
    except Exception as error:  # the decoders raise whatever a damaged file leads them to
        raise UnusableRecord(f"{label}: not an image that can be decoded ({first_line(error)})") from error


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise UnusableRecord(f"{label}: floating-point pixels outside 0 to 1. Save it with 8 or 16 bits a channel")
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
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
