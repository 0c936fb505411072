"""Images from untrusted sources: find them in a folder, and decode them or say why they cannot be used."""

from __future__ import annotations

import base64
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
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps

from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import DataError, first_line, shown

IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .avif .heic .heif .svg .jp2 .ico .tga".split())
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class ImageRef:
    """An image of an untrusted source, decoded when it is asked for; DataError for a URL, which a person must download first.

    value: a path inside `folder`, also as a `file://` URL, the bytes of a file, also as a `data:` URL, `{"path": ..., "bytes": ...}` as
    `datasets` has it (the bytes count, if there are any), a Pillow image, or as a Path a file wherever it lies
    label: of its record, for messages
    """

    value: Any
    folder: Path | None
    label: str

    def __post_init__(self) -> None:
        if "://" in (self._text or "")[:100]:
            raise DataError(f"{self.label}: {self._text[:80]!r} is a URL; download the images first and give paths.")  # type: ignore[index]

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.label} ({self._text[:80]})" if self._text else self.label

    @property
    def digest(self) -> str:
        """sha256 of what would be decoded, or a word for why there is nothing to decode."""
        try:
            source = self._source()
        except UnusableRecord:
            return "missing"
        if isinstance(source, Path):
            return content_digest(source)
        if isinstance(source, Image.Image):
            return hashlib.sha256(f"{source.mode} {source.size} ".encode() + source.tobytes()).hexdigest()
        return hashlib.sha256(source).hexdigest()

    def load(self) -> Image.Image:
        """The image as RGB: turned as its EXIF says, first frame, 16 bits and floats from 0 to 1 scaled to 8 bits, transparency on white.

        Raises UnusableRecord naming it for what is not an image, is damaged, or has more than a hundred million pixels.
        """
        source = self._source()
        if isinstance(source, Path) and not os.path.isfile(source):
            raise UnusableRecord(f"{self.name}: no such file, or not a regular one")
        return _decoded(source, self.name)

    @property
    def _plain(self) -> Any:
        value = self.value
        return value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value

    @property
    def _text(self) -> str | None:
        """The path as the record has it, if it names one."""
        value = self._plain
        if not isinstance(value, str) or value.startswith("data:"):
            return None
        return unquote(value.removeprefix("file://")) if value.startswith("file://") else value

    def _source(self) -> Path | bytes | Image.Image:
        """What to decode; UnusableRecord if there is nothing, or it may not be read."""
        value = self._plain
        if isinstance(value, (Path, Image.Image)):
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, str) and self._text is None:
            return _from_data_url(value, self.label)
        return _path_inside(self._text if isinstance(value, str) else value, self.folder, self.label)


def images_in_folder(folder: Path, limit: int) -> list[ImageRef]:
    """The first `limit` image files below a folder by path, none if there are none; links to folders are not followed, memory does not
    grow with the rest."""
    return [ImageRef(folder / path, None, path) for path in heapq.nsmallest(limit, _image_paths(folder))]


def content_digest(path: Path) -> str:
    """sha256 of a file that a record names, or a word for why there is none: what follows from the record follows from this."""
    try:
        if not path.is_file():
            return "missing"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _from_data_url(value: str, label: str) -> bytes:
    """The bytes that a URL such as data:image/png;base64,... holds."""
    head, _, content = value.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(content, validate=True)
    except ValueError:
        raise UnusableRecord(f"{label}: the image is {shown(value)}, expected the bytes of a file in base64 behind data:") from None


def _path_inside(value: object, folder: Path | None, label: str) -> Path:
    """The file that a record names; UnusableRecord if it may not, or names none."""
    try:
        if not isinstance(value, str) or not value or b"\0" in os.fsencode(value):
            raise ValueError
    except ValueError:  # UnicodeEncodeError too, for half of a surrogate pair
        raise UnusableRecord(f"{label}: the image is {shown(value)}, expected a path or the bytes of a file") from None
    name = repr(value[:80])
    if folder is None:
        raise UnusableRecord(f"{label}: the image {name} is not part of the record, and there is no folder that it could lie in")
    if not Path(os.path.realpath(folder / value)).is_relative_to(os.path.realpath(folder)):
        absolute = f" is absolute and lies outside {shown(str(folder))}; paths are relative to that folder"
        raise UnusableRecord(f"{label}: {name}{absolute if os.path.isabs(value) else ' lies outside the folder of the records'}")
    return folder / value


def _decoded(source: Path | bytes | Image.Image, label: str) -> Image.Image:
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with nullcontext(source) if isinstance(source, Image.Image) else Image.open(file) as image:
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
