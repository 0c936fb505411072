"""The same file of records gives the same images, questions and answers to a probe, a healing and an evaluation."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.data.conversations import Turn
from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.evaluation.tasks import open_tasks
from hf_layerprune.healing.dataset import Source
from hf_layerprune.healing.encoding import ChatEncoder
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.probing.probe_set import open_probe_set

COUNT = 4
Layout = Callable[[Any, str, str], dict[str, Any]]  # an image, a question and an answer as a record


def two_turns(image: Any, question: str, answer: str) -> dict[str, Any]:
    more = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}, *more], "images": [image]}


def in_the_message(image: Any, question: str, answer: str) -> dict[str, Any]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]}


def llava(image: Any, question: str, answer: str) -> dict[str, Any]:
    return {"image": image, "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]}


LAYOUTS: dict[str, Layout] = {
    "question": lambda image, question, answer: {"image": image, "question": question, "answer": answer},
    "list of images": lambda image, question, answer: {"image": [image], "question": question, "answer": [answer]},
    "images": lambda image, question, answer: {"images": [image], "question": question, "answer": answer},
    "messages": two_turns,
    "messages with images": in_the_message,
    "llava": llava,
    "finevision": lambda image, question, answer: {"images": [image], "texts": [{"user": question, "assistant": answer}]},
}


def write_lines(place: Path, records: Sequence[dict[str, Any]]) -> Path:
    (place / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return place / "records.jsonl"


def write_list(place: Path, records: Sequence[dict[str, Any]]) -> Path:
    (place / "records.json").write_text(json.dumps(records))
    return place / "records.json"


def write_parquet(place: Path, records: Sequence[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(list(records)), place / "records.parquet")
    return place / "records.parquet"


def write_folder(place: Path, records: Sequence[dict[str, Any]]) -> Path:
    (place / "texts").mkdir()
    for image in place.glob("*.png"):
        (place / "texts" / f"{image.stem}.dat").write_bytes(image.read_bytes())  # no name of an image: the folder is one of records
    return write_lines(place / "texts", json.loads(json.dumps(records).replace(".png", ".dat"))).parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number in range(COUNT):
        Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(tmp_path / f"{number}.png")
    return tmp_path


def colours(images: Sequence[Any]) -> list[Any]:
    return [np.asarray(image)[0, 0].tolist() for image in images]


def probed(path: Path) -> list[Any]:
    source = open_probe_set(ProbeOptions(math_images=str(path)), model_path()).sources["math"]
    return colours([source.image(number) for number in range(len(source))])


def healed(path: Path) -> list[tuple[Any, str, str]]:
    table = open_table(DataSpec(str(path)))
    source = Source(table, ChatEncoder.of(load_processor(model_path()), 2048))
    found = [source.conversation(number) for number in range(len(table))]
    assert all(source.encoder.measure(one)[0] > 0 for one in found)
    return [(colours([image.load() for image in one.images])[0], one.turns[0].text, one.turns[1].text) for one in found if one.images]


def evaluated(path: Path) -> list[tuple[Any, str, str]]:
    (task,) = open_tasks(Checkpoint.open(model_path(), "mini"), EvaluateOptions(str(path)), print)
    return [(colours(task.images(one.index))[0], one.question, one.answers[0]) for one in task.samples]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("write", [write_lines, write_list, write_parquet, write_folder])
def test_one_reader(place: Path, layout: Layout, write: Callable[[Path, Sequence[dict[str, Any]]], Path]) -> None:
    said = [(f"{number}.png", f"What is {number}?", f"It is {number}.") for number in range(COUNT)]
    path = write(place, [layout(*one) for one in said])
    expected = [([60 * number, 90, 200], question, answer) for number, (_, question, answer) in enumerate(said)]
    assert healed(path) == evaluated(path) == expected
    assert probed(path) == [colour for colour, _, _ in expected]


def test_bytes_and_absolute_paths(place: Path) -> None:
    content = base64.b64encode((place / "1.png").read_bytes()).decode()
    images = [f"data:image/png;base64,{content}", str(place / "2.png"), f"file://{place}/3.png"]
    path = write_lines(place, [llava(image, "q", "a") for image in images])
    assert healed(path) == evaluated(path) and probed(path) == [[60 * number, 90, 200] for number in (1, 2, 3)]


def test_text_alone_is_trained_on_and_otherwise_left_out(place: Path) -> None:
    """Nothing is wrong with such a record: it counts against no limit, and what was left out is said once."""
    text = {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
    path = write_lines(place, [llava("0.png", "q", "a"), text, llava("1.png", "q", "a"), text, text])
    assert len(healed(path)) == len(evaluated(path)) == len(probed(path)) == 2
    source = open_probe_set(ProbeOptions(math_images=str(path)), model_path())
    assert source.describe()["domains"]["math"] == {"origin": "records.jsonl", "images": 2, "left_out": 3}
    assert source.sources["math"].left_out[0] == "records.jsonl, line 2: it has no image"
    (task,) = open_tasks(Checkpoint.open(model_path(), "mini"), EvaluateOptions(str(path)), print)
    assert not task.unusable and len(task.left_out) == 3


def test_images_among_the_words(place: Path) -> None:
    """Several images, where the text has them, and a system text: an evaluation asks as a healing trains."""
    said = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Is <image> like <image>?"},
        {"from": "gpt", "value": "No."},
    ]
    path = write_lines(place, [{"image": ["0.png", "1.png"], "conversations": said}])
    (task,) = open_tasks(Checkpoint.open(model_path(), "mini"), EvaluateOptions(str(path)), print)
    (sample,) = task.samples
    assert (sample.content, sample.system, sample.answers) == (("Is ", None, " like ", None, "?"), "Be brief.", ("No.",))
    assert colours(task.images(0)) == probed(path) == [[0, 90, 200], [60, 90, 200]]
    source = Source(open_table(DataSpec(str(path))), ChatEncoder.of(load_processor(model_path()), 2048))
    system, user, _ = source.conversation(0).turns
    assert tuple(None if isinstance(part, ImageRef) else part for part in user.parts) == sample.content
    assert system == Turn("system", ("Be brief.",))
