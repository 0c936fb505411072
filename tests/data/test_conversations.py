"""Every layout in use becomes the same conversation; what cannot be trained on is named, with what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.data.conversations import Conversation, conversation, images_of
from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.records import LeftOut, Record, UnusableRecord
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError

A, B = ({"bytes": f"not decoded {name}".encode(), "path": None} for name in "ab")


def read(**fields: Any) -> Conversation:
    return conversation(Record("q.jsonl, line 3", fields, Path("/data")))


def shape(found: Conversation) -> list[tuple[str, list[Any]]]:
    """Roles and parts, an image as the value that it holds."""
    return [(turn.role, [part.value if isinstance(part, ImageRef) else part for part in turn.parts]) for turn in found.turns]


def messages(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]


ONE = [("user", [A, "What is it?"]), ("assistant", ["A cat."])]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": messages([{"type": "image", "image": A}, {"type": "text", "text": "What is it?"}], "A cat.")},
        {
            "messages": messages([{"type": "image"}, {"type": "text", "text": "What is it?"}], [{"type": "text", "text": "A cat."}]),
            "images": [A],
        },
        {"messages": messages("<image>What is it?", "A cat."), "images": [A]},
        {"messages": messages("What is it?", "A cat."), "images": [A]},
        {"messages": messages([{"type": "image", "text": None}, {"text": "What is it?", "type": "text"}], "A cat."), "image": A},
        {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}], "image": A},
        {"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}], "image": [A], "id": 7},
        {"conversations": [{"from": "user", "value": "<image>\r\nWhat is it?"}, {"from": "assistant", "value": "A cat."}], "images": [A]},
        {"conversations": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat."}], "image": [A]},
        {"messages": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A cat."}], "images": [A]},
        {"texts": [{"user": "What is it?", "assistant": "A cat."}], "images": [A], "source": "x"},
        {"question": "What is it?", "answer": "A cat.", "image": A},
        {"question": "What is it?", "answer": ["A cat."], "images": [A]},
        {"question": "What is it?", "answer": "A cat.", "image": A, "messages": None},
        {"question": "What is it?", "answer": "A cat.", "image": A, "images": []},
    ],
)
def test_one_conversation_in_every_layout(fields: dict[str, Any]) -> None:
    assert shape(read(**fields)) == ONE


def test_images_where_the_text_places_them() -> None:
    said = [("system", "Be brief."), ("human", "First <image> then\n<image>\nwhat?"), ("gpt", "b"), ("human", "and?"), ("gpt", "")]
    found = read(conversations=[{"from": role, "value": text} for role, text in said], image=[A, B])
    assert shape(found) == [
        ("system", ["Be brief."]),
        ("user", ["First ", A, " then", B, "what?"]),
        ("assistant", ["b"]),
        ("user", ["and?"]),
        ("assistant", []),
    ]
    assert [part.value for part in found.images] == [A, B]


def test_words_about_video() -> None:
    found = read(
        question="How does the <video> element differ from <audio> in HTML?", answer="See the <video> page.", videos=[], audio=None
    )
    assert found.turns[0].text == "How does the <video> element differ from <audio> in HTML?"


def test_several_texts_and_no_image() -> None:
    found = read(texts=[{"user": "a", "assistant": "b"}, {"user": "c", "assistant": "d"}], images=[])
    assert shape(found) == [("user", ["a"]), ("assistant", ["b"]), ("user", ["c"]), ("assistant", ["d"])]
    assert shape(read(question="q", answer=3)) == [("user", ["q"]), ("assistant", ["3"])]


def test_examples_of_mini() -> None:
    record = open_table(DataSpec("mini", count=1)).record(0)
    found = conversation(record)
    assert [turn.text for turn in found.turns] == [record.fields["question"], record.fields["answer"]]
    assert np.array_equal(found.images[0].load(), record.fields["image"])


def test_an_image_is_decoded_only_when_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.png")
    found = conversation(Record("x", {"question": "q", "answer": "a", "images": ["a.png", "none.png", "../b.png"]}, tmp_path))
    assert found.images[0].load().size == (3, 2)
    for number, said in ((1, "no such file"), (2, "lies outside")):
        with pytest.raises(UnusableRecord, match=said):
            found.images[number].load()
    with pytest.raises(DataError, match="is a URL"):
        read(
            messages=messages([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, {"type": "text", "text": "?"}], "b")
        ).images[0].load()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n": 1, "text": "x"}, r"expected the field messages, conversations, texts, or question and answer; found \['n', 'text'\]"),
        ({"question": "q"}, r"found \['question'\]"),
        ({"question": "q", "answer": None}, r"found \['question'\]"),
        *(
            ({"question": "q", "answer": "a", name: ["a.x"]}, f"it has '{name}'; only images")
            for name in ("video", "videos", "audio", "audios")
        ),
        ({"messages": messages("<video>What happens?", "A cat jumps.")}, "<video> in the text; only images and text can be used"),
        ({"conversations": [{"from": "human", "value": "Write it down.\n<audio>"}, {"from": "gpt", "value": "a"}]}, "<audio> in the text"),
        ({"question": 7, "answer": "a"}, "7 where a text was expected"),
        ({"question": "q", "answer": ["a", "b"]}, r"the answer is \['a', 'b'\], expected one text or number"),
        ({"question": "q", "answer": True}, "the answer is True"),
        ({"messages": "hello"}, "'messages' is 'hello', expected a list of objects"),
        ({"messages": []}, r"'messages' is \[\]"),
        ({"messages": ["a", "b"]}, "expected a list of objects"),
        ({"messages": messages("a", None)}, "None where a text was expected"),
        ({"messages": messages("a", "b", "c")}, "turns of user, assistant, user; expected user and assistant in turn"),
        ({"messages": messages("a")}, "turns of user;"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "turns of assistant;"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "a turn of 'tool', expected one of system, user"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, r"a turn of \['user'\]"),
        ({"messages": messages([{"type": "video", "video": "a.mp4"}], "b")}, "a part of type 'video', expected text or image"),
        ({"messages": messages([{"type": "text", "text": 3}], "b")}, "3 where a text was expected"),
        ({"messages": messages([{"type": "image"}], "b")}, "1 places for images, but 0 images"),
        ({"messages": messages([{"type": "image", "image": A}], "b"), "images": [A]}, "0 places for images, but 1 images"),
        ({"messages": messages("a", [{"type": "image", "image": A}])}, "an image in a turn that is not the user's"),
        ({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]}, "1 places for images, but 0"),
        ({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}], "image": [A, B]}, "1 places .* but 2"),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]}, "None where a text was expected"),
        ({"texts": [{"user": "a"}]}, "None where a text was expected"),
        ({"question": "q", "answer": " \n"}, "every answer is empty"),
        ({"question": "q", "answer": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_bad_ones(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableRecord, match=f"^q.jsonl, line 3: .*{said}") as caught:
        read(**fields)
    assert "\n" not in str(caught.value)


def test_the_system_text_beside_the_turns() -> None:
    """As ShareGPT has it."""
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert shape(read(system="Be brief.", conversations=said))[0] == ("system", ["Be brief."])
    assert shape(read(system="", conversations=said))[0] == ("user", ["a"])


def images(**fields: Any) -> list[Any]:
    return [image.value for image in images_of(Record("q.jsonl, line 3", fields, Path("/data")))]


def test_images_whatever_else_there_is() -> None:
    """For a probe a record needs no answer, not even a question."""
    assert images(image=A) == images(image=[A]) == images(images=[A], image=None) == images(image=A, question="q") == [A]
    assert images(messages=messages([{"type": "image", "image": A}, {"type": "text", "text": "q"}])) == [A]
    assert images(conversations=[{"from": "human", "value": "<image> and <image>"}], images=[A, B]) == [A, B]
    for fields in ({"question": "q", "answer": "a"}, {"messages": messages("a", "b")}, {"texts": [{"user": "a", "assistant": "b"}]}):
        with pytest.raises(LeftOut, match="line 3: it has no image"):
            images(**fields)
    for unreadable, said in (
        ({"img": "a.png"}, r"no field \"image\" .* found \['img'\]"),
        ({"image": "a.png", "video": "a.mp4"}, "it has 'video'; only images and text"),
        ({"image": "a.png", "question": "<video>What?"}, "<video> in the text"),
        ({"image": "a.png", "messages": 3}, "expected a list of objects"),
    ):
        with pytest.raises(UnusableRecord, match=said) as caught:
            images(**unreadable)
        assert not isinstance(caught.value, LeftOut)
