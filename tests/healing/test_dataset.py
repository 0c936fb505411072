"""From specs to samples: what is unusable, too long or left out is counted and told; nothing is looked at twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_layerprune.data.records import Tolerance
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import DataError
from hf_layerprune.healing.conversations import Filters
from hf_layerprune.healing.dataset import HealingData, Source, prepare_data
from hf_layerprune.healing.encoding import Collator
from hf_layerprune.healing.request import DataRequest
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from tests.healing.processors import mini_processor

PROCESSOR = load_processor(model_path())
GOOD = {"question": "q", "answer": "a"}


def write(path: Path, records: list[Any]) -> str:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return str(path)


def prepare(
    *specs: str,
    max_length: int = 200,
    processor: Any = PROCESSOR,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> HealingData:
    return prepare_data(DataRequest(tuple(map(DataSpec.parse, specs)), max_length, **options), processor, progress=progress)


def told(data: HealingData, index: int) -> str:
    """What the assistant says in a sample."""
    labels = data[index]["labels"]
    return str(PROCESSOR.tokenizer.decode(labels[labels >= 0], skip_special_tokens=True))


def test_mini_with_another_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": f"n{number}"} for number in range(10)])
    data = prepare("mini,count=30", f"{path},weight=2.5", seed=5)
    assert len(data) == 55 and len(data.lengths) == 55
    answers = [told(data, index) for index in range(55)]
    counts = [answers.count(f"n{number}") for number in range(10)]
    assert sorted(counts) == [2] * 5 + [3] * 5
    assert [len(data[index]["input_ids"]) for index in range(55)] == data.lengths.tolist()
    places = [index for index, answer in enumerate(answers) if answer in {f"n{number}" for number in range(10)}]
    assert places != list(range(30, 55)) and places != list(range(25))
    mini, lines = data.report.sources
    assert (mini.available, mini.used, mini.samples, mini.tokens + lines.tokens) == (30, 30, 30, int(data.lengths.sum()))
    assert (lines.available, lines.used, lines.samples, lines.spec) == (10, 10, 25, "a.jsonl,weight=2.5")
    assert str(tmp_path) not in json.dumps(asdict(data.report))
    assert json.loads(json.dumps(asdict(data.report)))["sources"][0]["origin"] == "mini"


def test_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    one, same, other = (prepare("mini,count=20", seed=seed, cache=tmp_path) for seed in (0, 0, 1))
    assert one.report.digest == same.report.digest != other.report.digest
    assert all(torch.equal(one[3][key], same[3][key]) for key in one[3])
    assert prepare("mini,count=21").report.digest != one.report.digest != prepare("mini,count=20", max_length=100).report.digest
    assert prepare("mini,count=20").report.digest == one.report.digest


def mixed_bag(tmp_path: Path) -> str:
    """100 lines: one not JSON, one without an answer, one with a broken image, two too long, three with two images."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    two = {"question": "q", "answer": "a", "images": ["a.png", "a.png"]}
    records: list[Any] = [
        "nonsense",
        {"question": "q"},
        GOOD | {"image": "broken.png"},
        *[GOOD | {"answer": "long " * 200}] * 2,
        *[two] * 3,
    ]
    return write(tmp_path / "bag.jsonl", [*[GOOD] * 50, *records, *[GOOD] * (50 - len(records))])


def test_what_cannot_be_used_is_counted_and_told(tmp_path: Path) -> None:
    data = prepare(mixed_bag(tmp_path), tolerance=Tolerance(Decimal("0.03")), filters=Filters(max_images=1))
    (report,) = data.report.sources
    assert (report.available, report.used, report.bad, report.too_long, report.left_out) == (100, 92, 3, 2, 3)
    assert len(data) == 92 == report.samples
    reasons = data.report.reasons
    assert [reason.split(":")[0] for reason in reasons[:2]] == ["bag.jsonl, line 51", "bag.jsonl, line 52"]
    assert reasons[2].startswith("bag.jsonl, line 53 (broken.png): not an image") and "tokens at least, more than 200" in reasons[3]
    assert len(reasons) == 5


def test_a_hundred_reasons_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD | {"answer": "long " * 200}] * 300 + ["nonsense"] + [GOOD] * 99)
    data = prepare(path, cache=tmp_path)
    assert (data.report.sources[0].too_long, data.report.sources[0].bad, len(data.report.reasons)) == (300, 1, 100)
    (kept,) = tmp_path.glob("lengths-*/scan.jsonl")
    assert "line 301: not valid JSON" in kept.read_text() and kept.stat().st_size < 40_000


@pytest.mark.parametrize("max_bad", ["0.029999", "0"])
def test_more_unusable_records_than_are_allowed(tmp_path: Path, max_bad: str) -> None:
    with pytest.raises(
        DataError, match=r"bag.jsonl, line 51: .* 3 unusable of 100 records of bag\.jsonl, more than the [02] that --max-bad"
    ) as caught:
        prepare(mixed_bag(tmp_path), tolerance=Tolerance(Decimal(max_bad)))
    assert "\n" not in str(caught.value)


def test_none_that_can_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD | {"answer": "long " * 200}] * 3)
    with pytest.raises(
        DataError, match=r"a\.jsonl: none of its 3 records can be used \(0 unusable, 3 too long, 0 left out\)\. First: a\.jsonl, line 1"
    ):
        prepare(path)


def test_a_url_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: 'https://x\.org/a\.png' is a URL; download the images first"):
        prepare(write(tmp_path / "a.jsonl", [GOOD, GOOD | {"image": "https://x.org/a.png"}]), workers=1)


class Looks:
    """Counts how often a record is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = Source.__getitem__

        def counted(source: Source, index: int) -> tuple[int, bool, str]:
            self.count += 1
            return look(source, index)

        monkeypatch.setattr(Source, "__getitem__", counted)


def test_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch)
    first = prepare("mini,count=100", cache=tmp_path)
    assert looks.count == 100
    again = prepare("mini,count=100,weight=3", cache=tmp_path, seed=0)
    assert looks.count == 100 and len(again) == 300 and first.report.sources[0].digest == again.report.sources[0].digest
    prepare("mini,count=100", cache=tmp_path, max_length=150)
    assert looks.count == 200


def hang(cache: Path) -> None:
    look = Source.__getitem__

    def slow(source: Source, index: int) -> tuple[int, bool, str]:
        if index == 100:
            (cache / "here").touch()
            signal.pause()
        return look(source, index)

    Source.__getitem__ = slow  # type: ignore[method-assign]
    prepare("mini,count=200", cache=cache)


def test_a_killed_look_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are of 64: of 200 records, killed at the 100th, 64 are kept, and a line that was half written is not."""
    process = multiprocessing.get_context("fork").Process(target=hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "here").exists():
        assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    (kept,) = tmp_path.glob("lengths-*.partial/scan.jsonl")
    kept.write_text(kept.read_text() + "[[64, 65")
    whole = prepare("mini,count=200")
    looks = Looks(monkeypatch)
    steps: list[tuple[int, int]] = []
    resumed = prepare("mini,count=200", cache=tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert looks.count == 136 and resumed.report.digest == whole.report.digest and np.array_equal(resumed.lengths, whole.lengths)
    assert steps[-1] == (200, 200) and steps == sorted(steps)


def test_a_scan_that_was_damaged(tmp_path: Path) -> None:
    prepare("mini,count=100", cache=tmp_path)
    (kept,) = tmp_path.glob("lengths-*/scan.jsonl")
    os.truncate(kept, kept.stat().st_size - 20)
    with pytest.raises(DataError, match=r"lengths-\w+: damaged; remove that folder and run again\."):
        prepare("mini,count=100", cache=tmp_path)


def test_mended_images_are_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}, GOOD])
    with pytest.raises(DataError, match=r"no such file.*1 unusable of 2"):
        prepare(path, cache=tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    mended = prepare(path, cache=tmp_path)
    assert len(mended) == 2 and mended.report.reasons == () and mended.report.sources[0].bad == 0


def test_a_limit_that_an_earlier_run_did_not_have(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["nonsense", *[GOOD] * 9])
    assert len(prepare(path, cache=tmp_path, tolerance=Tolerance(Decimal("0.2")))) == 9
    with pytest.raises(DataError, match="1 unusable of 10 records"):
        prepare(path, cache=tmp_path)


def test_workers_find_the_same(tmp_path: Path) -> None:
    bag = mixed_bag(tmp_path)
    alone, helped = (prepare(bag, "mini,count=200", tolerance=Tolerance(Decimal("0.03")), workers=workers) for workers in (0, 2))
    assert alone.report == helped.report


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: Image.new("RGB", (64, 640)).save(path)])
def test_an_image_that_changed_since(tmp_path: Path, change: Callable[[Path], object]) -> None:
    processor = mini_processor(tmp_path, size=(1024, 65536))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    data = prepare(write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}]), processor=processor, max_length=500)
    assert len(data[0]["input_ids"]) == data.lengths[0]
    change(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1.*when the data were prepared"):
        data[0]


def test_scaled_images_are_counted(tmp_path: Path) -> None:
    processor = mini_processor(tmp_path, size=(1024, 65536))
    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}] * 2 + [GOOD])
    data = prepare(path, processor=processor, max_length=100)
    assert (data.report.sources[0].scaled, data.report.sources[0].used) == (2, 3)
    assert sorted(len(data[index]["input_ids"]) for index in range(3))[1:] == [data.lengths.max()] * 2 and data.lengths.max() <= 100


def test_rendered_math_and_what_it_leaves_out(tmp_path: Path) -> None:
    problems = [{"problem": f"What is {n} + {n}?", "solution": str(2 * n), "messages": "no list"} for n in range(20)]
    path = write(tmp_path / "n.jsonl", problems)
    asked = write(tmp_path / "asked.jsonl", [{"question": "what is 3 + 3"}, {"problem": "What is 4+4 ?"}])
    data = prepare(path, render_math=True, exclude=(DataSpec(asked),))
    assert (data.report.sources[0].used, data.report.sources[0].left_out) == (18, 2)
    assert {told(data, index) for index in range(18)} == {str(2 * n) for n in range(20) if n not in (3, 4)}
    assert all("pixel_values" in data[index] for index in range(18))
    with pytest.raises(DataError, match="'messages' is 'no list'"):
        prepare(path)


def test_a_share_of_each(tmp_path: Path) -> None:
    data = prepare(write(tmp_path / "a.jsonl", [GOOD] * 200), "mini", filters=Filters(share=Decimal("0.01")))
    assert [source.available for source in data.report.sources] == [2, 41]


def test_a_loader_of_several_processes_reads_it() -> None:
    data, collate = prepare("mini,count=24"), Collator.of(PROCESSOR)
    alone = [collate([data[index] for index in range(start, start + 8)]) for start in (0, 8, 16)]
    helped = list(DataLoader(data, batch_size=8, num_workers=2, collate_fn=collate))
    assert all(torch.equal(one[key], other[key]) for one, other in zip(alone, helped, strict=True) for key in one)
    copy = pickle.loads(pickle.dumps(data))
    assert all(torch.equal(value, copy[5][key]) for key, value in data[5].items()) and len(pickle.dumps(data)) < 1 << 20


def test_nothing_decoded_is_held(tmp_path: Path) -> None:
    """Images of 3 MB each once decoded: no more than a few of them are in memory at a time."""
    Image.new("RGB", (1024, 1024)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}] * 24)
    prepare("mini,count=2")
    tracemalloc.start()
    data = prepare(path)
    for index in range(15):
        data[index]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20
