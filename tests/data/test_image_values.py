"""An image in a record: a path inside the folder, bytes, what `datasets` makes of them, or an image of Pillow's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.data.image_files import decode_value
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import DataError
from tests.image_files import SVG, animated, bomb, gradient, plain, turned


def test_each_form_gives_the_same_pixels(place: Path) -> None:
    content = plain(place / "a.png").read_bytes()
    values: list[Any] = ["a.png", "./a.png", content, memoryview(content), {"path": "a.png", "bytes": None}]
    values += [{"path": "elsewhere.png", "bytes": content}, {"bytes": content}, Image.open(place / "a.png")]
    for value in values:
        image = decode_value(value, place, "x")
        assert image.mode == "RGB" and np.array_equal(image, gradient())


def test_turned_animated_and_clear(place: Path) -> None:
    assert decode_value(turned(place / "a.png").read_bytes(), None, "x").size == (8, 12)
    assert np.asarray(decode_value(animated(place / "a.gif").read_bytes(), None, "x"))[0, 0].tolist() == [255, 0, 0]
    assert np.asarray(decode_value(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), None, "x")).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("../a.png", "'../a.png' lies outside the folder"),
        ("/etc/hostname", "lies outside"),
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
        (None, "the image is None"),
        (7, "the image is 7"),
        ([], "expected a path"),
        ({"path": None, "bytes": None}, "the image is None"),
        ({}, "the image is None"),
        (b"", "expected a path|not an image"),
        (b"nonsense", "not an image that can be decoded"),
        (SVG, "not an image that can be decoded"),
    ],
)
def test_unusable_values(place: Path, value: Any, said: str) -> None:
    (place / "folder").mkdir()
    plain(place.parent / "a.png")
    (place / "link.png").symlink_to(place.parent / "a.png")
    (place / "out").symlink_to(place.parent)
    (place / "loop.png").symlink_to("loop.png")
    with pytest.raises(UnusableRecord, match=said) as caught:
        decode_value(value, place, "x")
    assert str(caught.value).startswith("x") and "\n" not in str(caught.value)


def test_an_absolute_path_even_into_the_folder(place: Path) -> None:
    with pytest.raises(UnusableRecord, match="lies outside the folder"):
        decode_value(str(plain(place / "a.png")), place, "x")


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://a/b.png", "s3://bucket/a.png", "file:///etc/passwd"])
def test_urls_are_not_fetched(place: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"x: '.*' is a URL; download the images first"):
        decode_value(url, place, "x")


def test_a_bomb_and_a_truncated_image(place: Path) -> None:
    for content in (bomb(place / "a.png").read_bytes(), plain(place / "a.png").read_bytes()[:-40]):
        with pytest.raises(UnusableRecord, match=r"x: .*(exceeds limit|more than 100,000,000|not an image that can be decoded)"):
            decode_value(content, None, "x")


def test_a_path_where_there_is_no_folder() -> None:
    with pytest.raises(UnusableRecord, match=r"'a\.png' is not part of the record"):
        decode_value({"path": "a.png", "bytes": None}, None, "x")
