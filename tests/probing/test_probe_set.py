"""Probe sets: what they hold, when they are refused, and a fingerprint that follows every pixel."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_layerprune import LayerPruner
from hf_layerprune.data.records import Tolerance
from hf_layerprune.errors import DataError, UsageError
from hf_layerprune.mini import model_path
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.probing.probe_set import ProbeSet, open_probe_set, synthetic_probe_set
from tests.image_files import bomb, plain


def opened(**options: Any) -> ProbeSet:
    return open_probe_set(ProbeOptions(**options), model_path())


def folder_of(place: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number:04}.png")
    return place


def test_synthetic_images_are_drawn_from_the_seed() -> None:
    one, same, other = (synthetic_probe_set(64, 3, seed=seed) for seed in (0, 0, 1))
    for domain in ("math", "nonmath"):
        images = [[np.asarray(images.sources[domain].image(n)) for n in range(3)] for images in (one, same, other)]
        assert all(map(np.array_equal, images[0], images[1])) and not any(map(np.array_equal, images[0], images[2]))
        assert {image.shape for image in images[0]} == {(64, 64, 3)} and not np.array_equal(*images[0][:2])
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len({synthetic_probe_set(size, count).fingerprint for size in (64, 448) for count in (3, 4)}) == 4
    assert {domain: len(source) for domain, source in synthetic_probe_set().sources.items()} == {"math": 32, "nonmath": 32}


def test_the_images_that_a_place_gives(place: Path) -> None:
    """mini's own size where none is given; all of a folder, at most the paper's thousand, or as many as are asked for."""
    assert opened().sources["math"].image(0).size == (64, 64)
    assert len(opened(general_images=folder_of(place, 1)).sources["nonmath"]) == 1
    images = opened(math_images=folder_of(place, 5))
    assert images.domains == ("math",)
    assert images.describe()["domains"] == {"math": {"origin": "images", "images": 5}}
    assert len(opened(math_images=place, samples=3).sources["math"]) == 3
    assert opened(general_images=place, math_images=place).domains == ("math", "nonmath")
    for number in range(1003):
        (place / f"{number:04}.png").touch()
    assert len(opened(math_images=place).sources["math"]) == 1000
    assert len(opened(math_images=place, samples=1002).sources["math"]) == 1002


def test_fewer_than_asked_for(place: Path) -> None:
    folder_of(place, 4)
    with pytest.raises(DataError, match=r"images: 4 images, fewer than --samples 5\. .* --allow-fewer"):
        opened(math_images=place, samples=5)
    assert len(opened(math_images=place, samples=5, allow_fewer=True).sources["math"]) == 4
    assert len(opened(math_images=place, samples=4).sources["math"]) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "neither a file or folder, nor 'mini', nor a dataset's id"),
        ("one.png", r"one.png: not a file of records; expected .jsonl, .ndjson, .json, .parquet, or a folder of such files"),
        ("nowhere.jsonl", "neither a file or folder"),
        ("pipe.jsonl", "not a regular file"),
        ("empty", r"no image in that folder, and no file of records \(.jsonl, "),
        ("text.jsonl", "no image in its records; 2 are text alone"),
    ],
)
def test_invalid_places(place: Path, name: str, said: str) -> None:
    plain(place / "one.png")
    os.mkfifo(place / "pipe.jsonl")
    (place / "empty").mkdir()
    (place / "text.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 2)
    with pytest.raises(DataError, match=said):
        opened(math_images=place / name)


def test_the_fingerprint_follows_content_names_and_domain(place: Path) -> None:
    first = opened(math_images=folder_of(place, 3)).fingerprint
    assert opened(math_images=place).fingerprint == first
    seen = {first, opened(general_images=place).fingerprint, opened(math_images=place, samples=2).fingerprint}
    content = (place / "0001.png").read_bytes()
    (place / "0001.png").write_bytes(content + b"\0")
    seen.add(opened(math_images=place).fingerprint)
    (place / "0001.png").write_bytes(content)
    (place / "0002.png").rename(place / "0003.png")
    seen.add(opened(math_images=place).fingerprint)
    (place / "0003.png").unlink()
    (place / "0003.png").symlink_to("0003.png")
    seen.add(opened(math_images=place).fingerprint)
    assert len(seen) == 6


@pytest.mark.parametrize(("text", "share"), [("1%", "0.01"), ("0.01", "0.01"), ("0%", "0"), ("99.9%", "0.999")])
def test_shares_that_may_be_unusable(text: str, share: str) -> None:
    assert ProbeOptions(max_bad=text).tolerance == Tolerance(Decimal(share))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"samples": number}, "at least 1") for number in (0, -3)]
    + [
        ({"max_bad": text}, r"--max-bad.*such as 1% or 0.01")
        for text in ("", "%", "1", "100%", "-1%", "abc", "nan", "sNaN", "inf", "1 %%", "1e400", "0,01")
    ],
)
def test_invalid_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ProbeOptions(**options)


def test_a_probe_over_images_that_are_unusable(place: Path) -> None:
    """Through the real model: what can be seen is measured, what cannot is counted and listed with its reason."""
    folder_of(place, 3)
    bomb(place / "bomb.png")
    Image.new("RGB", (20_000, 3)).save(place / "strip.png")  # decodes, but the model's image processor takes no such ratio
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    statistics = pruner.probe(general_images=place, max_bad="40%")
    assert statistics.samples.tolist() == [3] * 4 and statistics.domains == ("nonmath",)
    assert statistics.record.skipped_count == {"nonmath": 2}
    assert [line.split(":")[0] for line in statistics.record.skipped] == ["bomb.png", "strip.png"]
    assert np.isfinite(statistics.cosine("nonmath")).all() and (np.abs(statistics.cosine("nonmath")) <= 1).all()
    with pytest.raises(DataError, match=r"That makes 2 unusable of 5 nonmath images, more than the 1 that max_bad 39% allows"):
        pruner.probe(general_images=place, max_bad="39%")


def test_statistics_with_more_unusable_images_than_allowed_are_not_reused(place: Path, tmp_path: Path) -> None:
    """What a lenient run kept does not slip past a strict one."""
    folder_of(place, 3)
    (place / "text.png").write_bytes(b"not an image")
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=tmp_path / "kept")
    assert pruner.probe(math_images=place, max_bad="25%").samples[0] == 3
    with pytest.raises(DataError, match=r"text.png.*max_bad 1% allows"):
        pruner.probe(math_images=place)
