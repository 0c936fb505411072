"""Write images that untrusted sources send: odd, damaged and hostile ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 12, 8


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for images."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def gradient() -> np.ndarray:
    """[8, 12, 3]: red grows to the right, green downwards, blue is 200."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 20, y * 30, np.full_like(x, 200)], 2).astype(np.uint8)


def plain(path: Path) -> Path:
    Image.fromarray(gradient()).save(path)
    return path


def png(width: int, height: int, bits: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by its chunks; `rows` each begin with a filter byte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(path: Path, side: int = 50_000) -> Path:
    """A few hundred bytes that claim to be side x side pixels."""
    path.write_bytes(png(side, side, 8, 2, bytes(1000)))
    return path


def grey16(path: Path, values: list[int]) -> Path:
    """One row of 16-bit grey pixels."""
    path.write_bytes(png(len(values), 1, 16, 0, b"\0" + struct.pack(f">{len(values)}H", *values)))
    return path


def palette_with_transparency(path: Path) -> Path:
    """Two pixels: opaque red, then blue that is wholly transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(path, transparency=1)
    return path


def turned(path: Path) -> Path:
    """A photograph taken with the camera on its side: EXIF orientation 6, to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(path, exif=exif)
    return path


def animated(path: Path) -> Path:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=10)
    return path


def cmyk(path: Path) -> Path:
    """No cyan, full magenta and yellow, no black: red."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
    return path


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
