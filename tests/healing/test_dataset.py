"""From specs to samples: what is unusable, too long or left out is counted and listed; nothing is looked at twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from hf_layerprune.data.conversations import Conversation, conversation
from hf_layerprune.data.records import LeftOut, Record, Tolerance
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import DataError
from hf_layerprune.healing.dataset import HealingData, Source, mixed, prepare_data
from hf_layerprune.healing.encoding import Collator
from hf_layerprune.healing.request import INTERLACE_FILTERS, DataRequest, Filters
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from tests.healing.processors import mini_processor

PROCESSOR = load_processor(model_path())
GOOD = {"question": "q", "answer": "a"}
LONG = GOOD | {"answer": "long " * 200}


def write(path: Path, records: list[Any]) -> str:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return str(path)


def prepare(
    *specs: str,
    max_length: int = 200,
    processor: Any = PROCESSOR,
    progress: Callable[[int, int], None] = lambda done, total: None,
    max_bad: str = "0.01",
    **options: Any,
) -> HealingData:
    request = DataRequest(tuple(map(DataSpec.parse, specs)), max_length, tolerance=Tolerance.parse(max_bad), **options)
    return prepare_data(request, processor, progress=progress)


def answer(data: HealingData, index: int) -> str:
    """What the assistant says in a sample."""
    labels = data[index]["labels"]
    return str(PROCESSOR.tokenizer.decode(labels[labels >= 0], skip_special_tokens=True))


def test_mini_with_another_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": f"n{number}"} for number in range(10)])
    data = prepare("mini,count=30", f"{path},weight=2.5", seed=5)
    assert len(data) == 55
    answers = [answer(data, index) for index in range(55)]
    assert sorted(answers.count(f"n{number}") for number in range(10)) == [2] * 5 + [3] * 5
    assert [len(data[index]["input_ids"]) for index in range(55)] == data.lengths.tolist()
    mini, lines = data.report.sources
    assert (mini.available, mini.used, mini.samples, mini.tokens + lines.tokens) == (30, 30, 30, int(data.lengths.sum()))
    assert (lines.available, lines.used, lines.samples, lines.spec) == (10, 10, 25, "a.jsonl,weight=2.5")
    assert str(tmp_path) not in json.dumps(asdict(data.report))


def test_the_digest_is_of_all_that_decides_the_samples(tmp_path: Path) -> None:
    one, same, other = (prepare("mini,count=20", seed=seed, cache=tmp_path) for seed in (0, 0, 1))
    assert one.report.digest == same.report.digest == prepare("mini,count=20").report.digest
    assert all(torch.equal(one[3][key], same[3][key]) for key in one[3])
    others = (other, prepare("mini,count=21"), prepare("mini,count=20", max_length=100))
    assert len({data.report.digest for data in (one, *others)}) == 4


def mixed_bag(tmp_path: Path) -> str:
    """100 lines: one not JSON, one without an answer, one with a broken image, two too long, three with two images."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    two = GOOD | {"images": ["a.png", "a.png"]}
    records: list[Any] = ["nonsense", {"question": "q"}, GOOD | {"image": "broken.png"}, LONG, LONG, two, two, two]
    return write(tmp_path / "bag.jsonl", [*[GOOD] * 50, *records, *[GOOD] * 42])


def test_unusable_records_are_counted_and_listed(tmp_path: Path) -> None:
    bag = mixed_bag(tmp_path)
    data = prepare(bag, max_bad="0.03", filters=Filters(max_images=1))
    (report,) = data.report.sources
    assert (report.available, report.used, report.bad, report.too_long, report.left_out) == (100, 92, 3, 2, 3)
    assert len(data) == 92 == report.samples
    reasons = data.report.reasons
    assert [reason.split(":")[0] for reason in reasons[:2]] == ["bag.jsonl, line 51", "bag.jsonl, line 52"]
    assert reasons[2].startswith("bag.jsonl, line 53 (broken.png): not an image") and "tokens at least, more than 200" in reasons[3]
    assert len(reasons) == 5
    alone, helped = (prepare(bag, "mini,count=200", max_bad="0.03", workers=workers) for workers in (0, 2))
    assert alone.report == helped.report


def test_a_hundred_reasons_are_listed(tmp_path: Path) -> None:
    data = prepare(write(tmp_path / "a.jsonl", [LONG] * 300 + ["nonsense"] + [GOOD] * 99), cache=tmp_path)
    assert (data.report.sources[0].too_long, data.report.sources[0].bad, len(data.report.reasons)) == (300, 1, 100)
    (kept,) = tmp_path.glob("lengths-*/scan.jsonl")
    assert "line 301: not valid JSON" in kept.read_text() and kept.stat().st_size < 40_000


@pytest.mark.parametrize(
    ("records", "max_bad", "said"),
    [
        (["nonsense"] * 3 + [GOOD] * 97, "0.029999", r"a\.jsonl, line 1: .* 3 unusable of 100 records of a\.jsonl, more than the 2 that"),
        (["nonsense", GOOD], "0", r"1 unusable of 2 records of a\.jsonl, more than the 0 that --max-bad"),
        ([LONG] * 3, "0.01", r"a\.jsonl: none of its 3 records .* \(0 unusable, 3 too long, 0 left out\)\. First: a\.jsonl, line 1"),
        ([GOOD, GOOD | {"image": "https://x.org/a.png"}], "0.9", r"line 2: 'https://x\.org/a\.png' is a URL; download the images first"),
    ],
)
def test_refusals(tmp_path: Path, records: list[Any], max_bad: str, said: str) -> None:
    path = write(tmp_path / "a.jsonl", records)
    for workers in (0, 1):
        with pytest.raises(DataError, match=said) as caught:
            prepare(path, max_bad=max_bad, workers=workers)
        assert "\n" not in str(caught.value)


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The records that are looked at from now on."""
    looked: list[int] = []
    look = Source.__getitem__
    monkeypatch.setattr(Source, "__getitem__", lambda source, index: looked.append(index) or look(source, index))
    return looked


def test_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = count_looks(monkeypatch)
    prepare("mini,count=100", cache=tmp_path)
    assert len(looked) == 100
    assert len(prepare("mini,count=100,weight=3", cache=tmp_path)) == 300 and len(looked) == 100
    prepare("mini,count=100", cache=tmp_path, max_length=150)
    assert len(looked) == 200
    kept = next(tmp_path.glob("lengths-*/scan.jsonl"))
    os.truncate(kept, kept.stat().st_size - 20)
    with pytest.raises(DataError, match=r"lengths-\w+: damaged; remove that folder and run again\."):
        for max_length in (200, 150):
            prepare("mini,count=100", cache=tmp_path, max_length=max_length)


def hang(cache: Path) -> None:
    look = Source.__getitem__

    def slow(source: Source, index: int) -> tuple[int, bool, str]:
        if index == 100:
            (cache / "here").touch()
            signal.pause()
        return look(source, index)

    Source.__getitem__ = slow  # type: ignore[method-assign]
    prepare("mini,count=200", cache=cache)


def test_a_killed_scan_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    looked, steps = count_looks(monkeypatch), list[tuple[int, int]]()
    resumed = prepare("mini,count=200", cache=tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert len(looked) == 136 and resumed.report == whole.report and np.array_equal(resumed.lengths, whole.lengths)
    assert steps[-1] == (200, 200) and steps == sorted(steps)


def test_repaired_images_are_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}, *[GOOD] * 9])
    with pytest.raises(DataError, match=r"no such file.*1 unusable of 10"):
        prepare(path, cache=tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    repaired = prepare(path, cache=tmp_path)
    assert len(repaired) == 10 and repaired.report.reasons == () and repaired.report.sources[0].bad == 0
    path = write(tmp_path / "b.jsonl", ["nonsense", *[GOOD] * 9])
    assert len(prepare(path, cache=tmp_path, max_bad="0.2")) == 9
    with pytest.raises(DataError, match="1 unusable of 10 records"):  # what an earlier run allowed
        prepare(path, cache=tmp_path)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: Image.new("RGB", (64, 640)).save(path)])
def test_an_image_that_changed_since(tmp_path: Path, change: Callable[[Path], object]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    processor = mini_processor(tmp_path, size=(1024, 65536))
    data = prepare(write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}]), processor=processor, max_length=500)
    assert len(data[0]["input_ids"]) == data.lengths[0]
    change(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1.*when the data were prepared"):
        data[0]


def test_scaled_images_are_counted(tmp_path: Path) -> None:
    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.jsonl", [GOOD | {"image": "a.png"}] * 2 + [GOOD])
    data = prepare(path, processor=mini_processor(tmp_path, size=(1024, 65536)), max_length=100)
    assert (data.report.sources[0].scaled, data.report.sources[0].used) == (2, 3)
    assert sorted(len(data[index]["input_ids"]) for index in range(3))[1:] == [data.lengths.max()] * 2 and data.lengths.max() <= 100


def test_rendered_math_and_what_it_leaves_out(tmp_path: Path) -> None:
    problems = [{"problem": f"What is {n} + {n}?", "solution": str(2 * n), "messages": "no list"} for n in range(20)]
    path = write(tmp_path / "n.jsonl", problems)
    items = write(tmp_path / "items.jsonl", [{"question": "what is 3 + 3"}, {"problem": "What is 4+4 ?"}])
    data = prepare(path, render_math=True, exclude=(DataSpec(items),))
    assert (data.report.sources[0].used, data.report.sources[0].left_out) == (18, 2)
    assert {answer(data, index) for index in range(18)} == {str(2 * n) for n in range(20) if n not in (3, 4)}
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
    assert len(pickle.dumps(data)) < 1 << 20


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


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 500), max_size=40), st.decimals("0.01", "5", places=2)), min_size=1, max_size=4),
    st.integers(0, 2**40),
)
def test_each_record_as_often_as_its_weight_says(sources: list[tuple[set[int], Decimal]], seed: int) -> None:
    rows, weights = [np.array(sorted(part), np.int64) for part, _ in sources], [weight for _, weight in sources]
    order = mixed(rows, weights, seed)
    seen = Counter(map(tuple, order.tolist()))
    for number, (part, weight) in enumerate(sources):
        counts = [seen[number, row] for row in part]
        assert all(int(weight) <= count <= int(weight) + 1 for count in counts)
        exact = float(weight) * len(part)
        assert abs(sum(counts) - exact) <= 0.5 + 1e-9 or (sum(counts) == 1 and 0 < exact < 0.5)
    assert sum(seen.values()) == sum(seen[number, row] for number, (part, _) in enumerate(sources) for row in part)
    assert np.array_equal(order, mixed(rows, weights, seed))


def test_halves_are_drawn_uniformly_and_sources_lie_mixed() -> None:
    """2,000 draws of a quarter of 20: each expected 500 times, with a standard deviation of 19.4."""
    orders = [mixed([np.arange(20), np.arange(5)], [Decimal("0.25"), Decimal(1)], seed) for seed in range(2000)]
    seen = Counter(row for order in orders for row in order[order[:, 0] == 0, 1].tolist())
    assert all(abs(seen[row] - 500) < 5 * 19.4 for row in range(20))
    first = sum(order[0, 0] == 0 for order in orders)
    assert abs(first - 1000) < 5 * 22.4  # either source comes first as often: five samples of each


def test_the_order_never_changes() -> None:
    """Written down once: a resumed training on another machine, or with another numpy, reads the same samples."""
    order = mixed([np.arange(4), np.arange(3)], [Decimal(1), Decimal("1.5")], 7)
    assert order.tolist() == [[0, 0], [1, 2], [1, 0], [0, 3], [1, 1], [1, 1], [0, 1], [0, 2], [1, 2]]
    assert mixed([np.array([], np.int64), np.arange(2)], [Decimal(3), Decimal(1)], 0)[:, 0].tolist() == [1, 1]


def test_filters() -> None:
    """INTERLACE's: at most three images and five answers."""

    def read(answers: int, images: int) -> Conversation:
        fields = {"texts": [{"user": "a", "assistant": "b"}] * answers, "images": ["a.png"] * images}
        return conversation(Record("q.jsonl, line 3", fields, None))

    INTERLACE_FILTERS.check(read(5, 3))
    Filters().check(read(50, 50))
    for found, said in ((read(6, 0), "6 turns, more than 5"), (read(1, 4), "4 images, more than 3")):
        with pytest.raises(LeftOut, match=f"q.jsonl, line 3: {said}"):
            INTERLACE_FILTERS.check(found)
