"""Images from untrusted sources: found without listing everything, decoded from files and records, or refused by name."""

from __future__ import annotations

import base64
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.data.image_files import ImageRef, images_in_folder
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import DataError
from tests.image_files import HEIC, SVG, animated, bomb, cmyk, gradient, grey16, palette_with_transparency, plain, png, turned


def decode(path: Path) -> np.ndarray:
    image = ImageRef(path, None, path.name).load()
    assert image.mode == "RGB"
    return np.asarray(image)


def test_plain_images_keep_their_pixels(place: Path) -> None:
    for name in ("a.png", "b.bmp", "c.tiff", "d.ppm"):
        assert np.array_equal(decode(plain(place / name)), gradient())


def test_turned_by_its_exif(place: Path) -> None:
    """Orientation 6: what is stored as the left column is the top row of the photograph, from right to left."""
    found = decode(turned(place / "a.png"))
    assert np.array_equal(found, np.rot90(gradient(), -1)) and found.shape == (12, 8, 3)


def test_sixteen_bits_become_eight(place: Path) -> None:
    """All 256 greys that have an exact 8-bit value, and the ends: nothing clips at 255, nothing is one too dark. Colours too."""
    found = decode(grey16(place / "a.png", [257 * grey for grey in range(256)]))
    assert found[0].tolist() == [[grey] * 3 for grey in range(256)]
    near = decode(grey16(place / "b.png", [0, 300, 32768, 65000, 65535]))[0, :, 0]
    assert np.abs(near - np.array([0, 300, 32768, 65000, 65535]) / 257).max() <= 1
    (place / "c.png").write_bytes(png(1, 1, 16, 2, b"\0" + bytes([200, 0, 100, 0, 50, 0])))
    assert decode(place / "c.png").tolist() == [[[200, 100, 50]]]


def test_floats_from_0_to_1_become_eight_bits(place: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.float32)[None] / 255).save(place / "a.tiff")
    assert decode(place / "a.tiff")[0].tolist() == [[grey] * 3 for grey in range(256)]
    for name, values in {"b.tiff": [0, 255], "c.tiff": [-0.1, 1], "d.tiff": [0.5, math.nan]}.items():
        Image.fromarray(np.array([values], np.float32)).save(place / name)
        with pytest.raises(UnusableRecord, match=rf"{name}: floating-point pixels outside 0 to 1"):
            decode(place / name)


def test_transparency_stands_on_white(place: Path) -> None:
    assert decode(palette_with_transparency(place / "a.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    Image.new("RGBA", (1, 1), (0, 0, 0, 128)).save(place / "b.png")
    assert np.abs(decode(place / "b.png").astype(int) - 127).max() <= 1
    Image.new("LA", (1, 1), (0, 0)).save(place / "c.png")
    assert decode(place / "c.png").tolist() == [[[255, 255, 255]]]


def test_first_frame_of_an_animation_and_four_colours_of_print(place: Path) -> None:
    assert (decode(animated(place / "a.gif")) == [255, 0, 0]).all()
    assert (np.abs(decode(cmyk(place / "a.jpg")).astype(int) - [255, 0, 0]) < 12).all()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_odd_shapes_are_decoded(place: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(place / "a.png")
    found = decode(place / "a.png")
    assert found.shape == (size[1], size[0], 3) and (found == [1, 2, 3]).all()


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])


UNUSABLE: dict[str, bytes | Callable[[Path], object]] = {
    "zero bytes": b"",
    "text": b"not an image",
    "svg": SVG,
    "heic": HEIC,
    "truncated": _truncated,
    "half a header": lambda path: path.write_bytes(plain(path).read_bytes()[:20]),
    "bomb": bomb,
    "smaller bomb": lambda path: bomb(path, 11_000),  # 121 million: below Pillow's own limit, above ours
    "wrong length of a chunk": png(4, 4, 8, 2, bytes(52), extra=b"\xff\xff\xff\xffiCCP"),
    "too few rows": png(400, 400, 8, 2, bytes(52)),
    "tiff with a wild offset": b"II*\0\xff\xff\xff\x7f" + bytes(20),
    "gif cut short": b"GIF89a\x10\0\x10\0\xf7",
    "jpeg cut short": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "ico of nonsense": b"\0\0\1\0\1\0" + b"\xff" * 16,
    "folder": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("nowhere.png"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": lambda path: os.mkfifo(path),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_decoded_is_named(place: Path, content: Any) -> None:
    """As a file, and, of files with content, as the bytes in a record; memory stays bounded whatever a header says."""
    path = place / "odd.png"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    decoders = [lambda: decode(path)] + [lambda: ImageRef(path.read_bytes(), None, "odd.png").load()] * path.is_file()
    for decoder in decoders:
        tracemalloc.start()
        with pytest.raises(UnusableRecord) as caught:
            decoder()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert str(caught.value).startswith("odd.png: ") and "\n" not in str(caught.value) and len(str(caught.value)) < 300
        assert peak < 50 << 20


def test_any_byte_may_be_wrong(place: Path) -> None:
    """Decoders fail in every way there is: always UnusableRecord, or an image."""
    rng, bad = np.random.default_rng(0), 0
    for suffix in ("png", "gif", "tiff", "webp", "jpg", "ico", "bmp", "ppm"):
        whole = bytearray(plain(place / f"whole.{suffix}").read_bytes())
        for _ in range(25):
            spoilt = bytearray(whole)
            for position in rng.integers(0, len(whole), 4):
                spoilt[position] = rng.integers(0, 256)
            (place / f"spoilt.{suffix}").write_bytes(spoilt)
            try:
                assert decode(place / f"spoilt.{suffix}").size
            except UnusableRecord:
                bad += 1
    assert bad > 20


# --- folders ----------------------------------------------------------------------------------------------


def test_folder_below_folder_by_path(place: Path) -> None:
    (place / "notes.txt").write_text("none")
    assert images_in_folder(place, 5) == []
    for name in ("b/2.png", "a/1.JPG", "3.webp", "a/notes.txt", "a/c/4.heic"):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).touch()
    (place / "again").symlink_to(".")
    (place / "a" / "up").symlink_to("..")
    (place / "loop.png").symlink_to("loop.png")
    (place / "link.png").symlink_to("3.webp")
    (place / "dir.png").mkdir()
    found = images_in_folder(place, 10)
    assert [record.label for record in found] == ["3.webp", "a/1.JPG", "a/c/4.heic", "b/2.png", "link.png", "loop.png"]
    assert [record.label for record in images_in_folder(place, 2)] == ["3.webp", "a/1.JPG"]
    assert all(record.value == place / record.label for record in found)


def test_many_files_take_no_memory(place: Path) -> None:
    """Two thousand names of 200 bytes that are not asked for cost as much as none."""
    for number in range(2000):
        os.symlink("nowhere", place / f"{'x' * 200}{number:05}.png")
    tracemalloc.start()
    found = images_in_folder(place, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record.label[-9:] for record in found] == ["00000.png", "00001.png", "00002.png"] and peak < 100_000


# --- images in records ----------------------------------------------------------------------------------------------------


def test_each_form_gives_the_same_pixels(place: Path) -> None:
    content = plain(place / "a.png").read_bytes()
    values: list[Any] = ["a.png", "./a.png", content, memoryview(content), {"path": "a.png", "bytes": None}]
    values += [f"data:image/png;base64,{base64.b64encode(content).decode()}", f"file://{quote(str(place))}/a.png"]
    values += [{"path": "elsewhere.png", "bytes": content}, {"bytes": content}, Image.open(place / "a.png")]
    for value in values:
        image = ImageRef(value, place, "x").load()
        assert image.mode == "RGB" and np.array_equal(image, gradient())
    assert ImageRef(turned(place / "a.png").read_bytes(), None, "x").load().size == (8, 12)
    assert np.asarray(ImageRef(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), None, "x").load()).tolist() == [[[255, 255, 255]]]


VALUES: list[tuple[Any, str]] = [
    ("../a.png", "'../a.png' lies outside the folder"),
    ("/etc/hostname", "'/etc/hostname' is absolute and lies outside"),
    ("file:///etc/passwd", "'/etc/passwd' is absolute and lies outside"),
    ("data:image/png;base64,!", "expected the bytes of a file in base64"),
    ("data:image/png,x", "expected the bytes of a file in base64"),
    ("link.png", "lies outside"),
    ("out/a.png", "lies outside"),
    ("loop.png", "x"),
    (".", "no such file, or not a regular one"),
    ("\ud800.png", "expected a path"),
    ("none.png", r"x \(none.png\): no such file"),
    ("folder", "no such file, or not a regular one"),
    ("a" * 5000, "no such file, or not a regular one"),
    ("a\0b", "expected a path or the bytes"),
    ("", "expected a path"),
    (7, "the image is 7"),
    ([], "expected a path"),
    ({"path": None, "bytes": None}, "the image is None"),
    ({}, "the image is None"),
    (b"", "expected a path|not an image"),
]


@pytest.mark.parametrize(("value", "said"), VALUES)
def test_unusable_values(place: Path, value: Any, said: str) -> None:
    (place / "folder").mkdir()
    plain(place.parent / "a.png")
    (place / "link.png").symlink_to(place.parent / "a.png")
    (place / "out").symlink_to(place.parent)
    (place / "loop.png").symlink_to("loop.png")
    with pytest.raises(UnusableRecord, match=said) as caught:
        ImageRef(value, place, "x").load()
    assert str(caught.value).startswith("x") and "\n" not in str(caught.value)


def test_no_path_leads_elsewhere(place: Path) -> None:
    with pytest.raises(UnusableRecord, match=r"b\.png' is absolute and lies outside .*; paths are relative to that folder"):
        ImageRef(str(plain(place.parent / "b.png")), place, "x").load()
    assert ImageRef(str(plain(place / "a.png")), place, "x").load().size == gradient().shape[1::-1]
    with pytest.raises(UnusableRecord, match=r"'a\.png' is not part of the record"):
        ImageRef({"path": "a.png", "bytes": None}, None, "x").load()
    for url in ("https://example.org/a.png", "s3://bucket/a.png"):
        with pytest.raises(DataError, match=r"x: '.*' is a URL; download the images first"):
            ImageRef(url, place, "x").load()
