"""A record as a conversation, whichever way it is laid out.

Layouts, tried in this order: `messages` (the Hub's usual one), `conversations` (LLaVA), `texts` (FineVision), and `question` with
`answer`. Images come from an `images` or `image` column, or stand in the messages themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hf_layerprune.data.image_files import decode_value
from hf_layerprune.data.records import Record, UnusableRecord, refuse_video_and_audio
from hf_layerprune.errors import shown

Role = Literal["system", "user", "assistant"]
LAYOUTS = ("messages", "conversations", "texts", "question")  # the field by which each is known
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
PLACEHOLDER = re.compile(r"(?:\r?\n)?<image>(?:\r?\n)?")  # LLaVA sets it on a line of its own
# At the beginning or end of a line: elsewhere people write about the HTML elements of these names.
OTHER_PLACEHOLDER = re.compile(r"^[ \t]*<(?:video|audio)>|<(?:video|audio)>[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class ImageRef:
    """An image as the record holds it, decoded when it is asked for; the fields are what `data.image_files.decode_value` takes."""

    value: Any
    folder: Path | None
    label: str

    def load(self) -> Image.Image:
        """The image as RGB; UnusableRecord if it cannot be decoded."""
        return decode_value(self.value, self.folder, self.label)


@dataclass(frozen=True)
class Turn:
    """What one side says: pieces of text, and images (of the user only), in their order."""

    role: Role
    parts: tuple[str | ImageRef, ...]

    @property
    def text(self) -> str:
        """The pieces of text, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Conversation:
    """At most one system turn, then user and assistant in turn, ending with the assistant. label: of the record, for errors."""

    label: str
    turns: tuple[Turn, ...]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images, in their order."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, ImageRef))


class LeftOut(UnusableRecord):
    """A record that was asked to be left out; not counted as unusable."""


@dataclass(frozen=True)
class Filters:
    """What to leave out on purpose, as against what cannot be used. None: no limit."""

    max_images: int | None = None
    max_turns: int | None = None  # answers of the assistant
    share: Decimal | None = None  # of each file or subset that part is taken, drawn uniformly

    def check(self, conversation: Conversation) -> None:
        """LeftOut for a conversation beyond a limit."""
        answers = sum(turn.role == "assistant" for turn in conversation.turns)
        for count, what, most in ((len(conversation.images), "images", self.max_images), (answers, "turns", self.max_turns)):
            if most is not None and count > most:
                raise LeftOut(f"{conversation.label}: {count} {what}, more than {most}")


NO_FILTERS = Filters()
INTERLACE_FILTERS = Filters(max_images=3, max_turns=5, share=Decimal("0.01"))  # arXiv 2511.19676, section 3.4

Part = str | ImageRef | None  # None: the next image of the record's column
Said = tuple[Any, list[Part]]  # a role as the record spells it, and what it says


def conversation(record: Record) -> Conversation:
    """The conversation of a record; UnusableRecord saying what was found where it holds none that can be trained on."""
    refuse_video_and_audio(record)
    label, fields = record.label, {name: value for name, value in record.fields.items() if value is not None}
    layout = next((name for name in LAYOUTS if name in fields), None)
    if layout is None or (layout == "question" and "answer" not in fields):
        known = "messages, conversations, texts, or question and answer"
        raise UnusableRecord(f"{label}: expected the field {known}; found {shown(sorted(map(str, fields)))}")
    said: list[tuple[Role, list[Part]]] = []
    for role, parts in _said(layout, fields, record):
        if not isinstance(role, str) or role not in ROLES:
            raise UnusableRecord(f"{label}: a turn of {shown(role)}, expected one of {', '.join(ROLES)}")
        said.append((ROLES[role], parts))
    value = fields["images"] if fields.get("images") else fields.get("image", [])
    values = value if isinstance(value, (list, tuple)) else [value]
    turns = _placed(said, [ImageRef(item, record.folder, label) for item in values if item is not None], label)
    _check_turns(label, turns)
    return Conversation(label, turns)


def _said(layout: str, fields: Mapping[str, Any], record: Record) -> Iterator[Said]:
    """Each turn of a record in one of the layouts."""
    label = record.label
    if layout == "question":
        answer = fields["answer"]
        if isinstance(answer, (list, tuple)) and len(answer) == 1:
            answer = answer[0]
        if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
            raise UnusableRecord(f"{label}: the answer is {shown(answer)}, expected one text or number")
        yield "user", _split(fields["question"], label)
        yield "assistant", _split(str(answer), label)
        return
    for item in _listed(fields[layout], layout, label):
        if layout == "conversations":
            yield item.get("from"), _split(item.get("value"), label)
        elif layout == "texts":
            yield from ((role, _split(item.get(role), label)) for role in ("user", "assistant"))
        elif isinstance(content := item.get("content"), str):
            yield item.get("role"), _split(content, label)
        else:
            yield item.get("role"), [_piece(part, record) for part in _listed(content, "content", label)]


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
    if any(isinstance(part, ImageRef) for turn in turns if turn.role != "user" for part in turn.parts):
        raise UnusableRecord(f"{label}: an image in a turn that is not the user's")
    if not any(turn.text.strip() for turn in turns if turn.role == "assistant"):
        raise UnusableRecord(f"{label}: every answer is empty")
    if any("\ud800" <= letter <= "\udfff" for turn in turns for letter in turn.text):
        raise UnusableRecord(f"{label}: half of a surrogate pair, which is not valid text")
