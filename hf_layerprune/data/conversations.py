"""A record as a conversation, whichever way it is laid out.

Layouts, tried in this order: `messages` (the Hub's usual one), `conversations` (LLaVA, ShareGPT), `texts` (FineVision), and `question`
with `answer`. Images come from an `images` or `image` column, or stand in the messages themselves. Probing, healing and evaluation
read every record here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.records import LeftOut, Record, UnusableRecord
from hf_layerprune.errors import shown

Role = Literal["system", "user", "assistant"]
LAYOUTS = ("messages", "conversations", "texts", "question")  # the field by which each is known
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
PLACEHOLDER = re.compile(r"(?:\r?\n)?<image>(?:\r?\n)?")  # LLaVA sets it on a line of its own
OTHER_MEDIA = ("video", "videos", "audio", "audios")  # without them the rest of a record means something else
# At the beginning or end of a line: elsewhere people write about the HTML elements of these names.
OTHER_PLACEHOLDER = re.compile(r"^[ \t]*<(?:video|audio)>|<(?:video|audio)>[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Turn:
    """What one side says: pieces of text, and images (of the user only), in their order."""

    role: Role
    parts: tuple[str | ImageRef, ...]

    @property
    def text(self) -> str:
        """The pieces of text, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The images, in their order."""
        return tuple(part for part in self.parts if isinstance(part, ImageRef))


@dataclass(frozen=True)
class Conversation:
    """At most one system turn, then user and assistant in turn, ending with the assistant. label: of the record, for errors."""

    label: str
    turns: tuple[Turn, ...]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images, in their order."""
        return tuple(image for turn in self.turns for image in turn.images)


Part = str | ImageRef | None  # None: the next image of the record's column
Said = tuple[Any, list[Part]]  # a role as the record spells it, and what it says


def conversation(record: Record) -> Conversation:
    """The conversation of a record; UnusableRecord saying what was found where it holds none that ends with an answer."""
    turns, label, layout, answer = turns_of(record), record.label, layout_of(record), record.fields.get("answer")
    if layout is None or (layout == "question" and answer is None):
        known = "messages, conversations, texts, or question and answer"
        raise UnusableRecord(f"{label}: expected the field {known}; found {shown(_found(record))}")
    if layout == "question":
        turns += (Turn("assistant", (_one_answer(answer, label),)),)
    _check_turns(label, turns)
    return Conversation(label, turns)


def images_of(record: Record) -> tuple[ImageRef, ...]:
    """The images of a record, whatever else it holds; LeftOut if it is text alone, UnusableRecord if it cannot be read."""
    images = tuple(image for turn in turns_of(record) for image in turn.images)
    if not images and layout_of(record) is None:
        raise UnusableRecord(f'{record.label}: no field "image" or "images", and no conversation; found {shown(_found(record))}')
    if not images:
        raise LeftOut(f"{record.label}: it has no image")
    return images


def turns_of(record: Record) -> tuple[Turn, ...]:
    """What is said in a record, with its images at their places; of `question` and `answer` the question alone. Whether it makes a
    conversation is not checked.

    UnusableRecord for a layout that cannot be read, a video or a sound; DataError for an image that is a URL.
    """
    label, fields = record.label, {name: value for name, value in record.fields.items() if value is not None}
    for name in OTHER_MEDIA:
        if fields.get(name):
            raise UnusableRecord(f"{label}: it has {name!r}; only images and text can be used")
    said: list[tuple[Role, list[Part]]] = []
    for role, parts in _said(fields, record):
        if not isinstance(role, str) or role not in ROLES:
            raise UnusableRecord(f"{label}: a turn of {shown(role)}, expected one of {', '.join(ROLES)}")
        said.append((ROLES[role], parts))
    value = fields["images"] if fields.get("images") else fields.get("image", [])
    values = value if isinstance(value, (list, tuple)) else [value]
    return _placed(said, [ImageRef(item, record.folder, label) for item in values if item is not None], label)


def layout_of(record: Record) -> str | None:
    """Which of LAYOUTS a record has, None for none of them."""
    return next((name for name in LAYOUTS if record.fields.get(name) is not None), None)


def _found(record: Record) -> list[str]:
    return sorted(str(name) for name, value in record.fields.items() if value is not None)


def _said(fields: Mapping[str, Any], record: Record) -> Iterator[Said]:
    """Each turn of a record in the first layout that it has; of one that has none an empty one for its images."""
    label, layout = record.label, layout_of(record)
    if layout is None:
        yield "user", []
    elif layout == "question":
        yield "user", _split(fields["question"], label)
    elif layout == "texts":
        for item in _listed(fields[layout], layout, label):
            yield from ((role, _split(item.get(role), label)) for role in ("user", "assistant"))
    else:
        if isinstance(system := fields.get("system"), str) and system.strip():  # as ShareGPT has it, beside the turns
            yield "system", _split(system, label)
        for item in _listed(fields[layout], layout, label):
            content = item.get("content", item.get("value"))
            role = item.get("role", item.get("from"))
            if isinstance(content, (list, tuple)):
                yield role, [_piece(part, record) for part in _listed(content, "content", label)]
            else:
                yield role, _split(content, label)


def _one_answer(answer: Any, label: str) -> str:
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise UnusableRecord(f"{label}: the answer is {shown(answer)}, expected one text or number")
    return str(answer)


def _split(text: Any, label: str) -> list[Part]:
    """A text with a place for an image instead of each placeholder; UnusableRecord for a placeholder of a video or a sound."""
    parts: list[Part] = []
    if found := OTHER_PLACEHOLDER.search(_text(text, label)):
        raise UnusableRecord(f"{label}: {found[0].strip()} in the text; only images and text can be used")
    for number, piece in enumerate(PLACEHOLDER.split(_text(text, label))):
        parts += [None, piece] if number else [piece]
    return [part for part in parts if part != ""]


def _piece(part: Mapping[str, Any], record: Record) -> Part:
    """One part of a message: a text, an image that stands there, or the place of one."""
    given = {name: value for name, value in part.items() if value is not None}
    kind = given.get("type", "text" if "text" in given else None)
    if kind in ("image", "image_url"):
        value = next((given[name] for name in ("image", "path", "url", "image_url", "bytes") if name in given), None)
        value = value.get("url", value) if isinstance(value, Mapping) else value
        return None if value is None else ImageRef(value, record.folder, record.label)
    if kind != "text":
        raise UnusableRecord(f"{record.label}: a part of type {shown(kind)}, expected text or image")
    return _text(given.get("text"), record.label)


def _text(value: Any, label: str) -> str:
    if not isinstance(value, str):
        raise UnusableRecord(f"{label}: {shown(value)} where a text was expected")
    return value


def _listed(value: Any, name: str, label: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, Mapping) for item in value):
        raise UnusableRecord(f"{label}: {name!r} is {shown(value)}, expected a list of objects")
    return value


def _placed(said: Sequence[tuple[Role, list[Part]]], images: list[ImageRef], label: str) -> tuple[Turn, ...]:
    """The turns with the column's images at their places: before the user's first words where there is no place for any image."""
    every = [part for _, parts in said for part in parts]
    places = sum(part is None for part in every)
    first = next((parts for role, parts in said if role == "user"), None)
    if all(isinstance(part, str) for part in every) and first is not None:
        first[:0] = images
    elif places != len(images):
        raise UnusableRecord(f"{label}: {places} places for images, but {len(images)} images")
    waiting = iter(images)
    return tuple(Turn(role, tuple(next(waiting) if part is None else part for part in parts)) for role, parts in said)


def _check_turns(label: str, turns: Sequence[Turn]) -> None:
    roles = [turn.role for turn in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if talk != [("user", "assistant")[number % 2] for number in range(len(talk))] or len(talk) < 2 or len(talk) % 2:
        raise UnusableRecord(f"{label}: turns of {', '.join(roles[:12])}; expected user and assistant in turn, ending with the assistant")
    if any(turn.images for turn in turns if turn.role != "user"):
        raise UnusableRecord(f"{label}: an image in a turn that is not the user's")
    if not any(turn.text.strip() for turn in turns if turn.role == "assistant"):
        raise UnusableRecord(f"{label}: every answer is empty")
    if any("\ud800" <= letter <= "\udfff" for turn in turns for letter in turn.text):
        raise UnusableRecord(f"{label}: half of a surrogate pair, which is not valid text")
