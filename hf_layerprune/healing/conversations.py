"""Conversations: what strangers' records say, in one form, whichever way they are laid out.

Known layouts, tried in this order: `messages` (the Hub's usual one), `conversations` (LLaVA), `texts` (FineVision), and `question`
with `answer`. Pictures come from an `images` or `image` column, or stand in the messages themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hf_layerprune.data.image_files import BadRecord, picture
from hf_layerprune.data.records import Record
from hf_layerprune.errors import shown

Role = Literal["system", "user", "assistant"]
_SPLIT = re.compile(r"(?:\r?\n)?<image>(?:\r?\n)?")  # LLaVA sets its placeholder on a line of its own
_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Picture:
    """A picture as the record holds it; decoded only when it is asked for. value, folder, label: as `data.picture` takes them."""

    value: Any
    folder: Path | None
    label: str

    def load(self) -> Image.Image:
        """The picture as RGB; BadRecord if it cannot be decoded."""
        return picture(self.value, self.folder, self.label)


@dataclass(frozen=True)
class Turn:
    """What one side says: pieces of text, and pictures (of the user only), in their order."""

    role: Role
    parts: tuple[str | Picture, ...]

    @property
    def text(self) -> str:
        """The pieces of text, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Conversation:
    """A system turn at most, then user and assistant by turns, ending with the assistant. label: what to call it in messages."""

    label: str
    turns: tuple[Turn, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, in their order."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))

    @property
    def exchanges(self) -> int:
        """Answers of the assistant: what INTERLACE's filter counts as turns."""
        return sum(turn.role == "assistant" for turn in self.turns)


def conversation(record: Record) -> Conversation:
    """The conversation that a record holds; BadRecord saying what was found if it holds none that can be trained on."""
    fields = {name: value for name, value in record.fields.items() if value is not None}
    found = next((name for name in _LAYOUTS if name in fields), None)
    if found is None or (found == "question" and "answer" not in fields):
        known = "messages, conversations, texts, or question and answer"
        raise BadRecord(f"{record.label}: expected the field {known}; found {shown(sorted(map(str, fields)))}")
    pictures = _Pictures(record, fields)
    turns = tuple(pictures.placed(list(_LAYOUTS[found](fields, pictures))))
    _check_order(record.label, turns)
    return Conversation(record.label, turns)


class _Pictures:
    """The pictures beside a record's texts, given out one after another."""

    def __init__(self, record: Record, fields: Mapping[str, Any]) -> None:
        self._folder, self.label = record.folder, record.label
        value = fields["images"] if fields.get("images") else fields.get("image", [])
        self._waiting = [self.of(item) for item in (value if isinstance(value, (list, tuple)) else [value]) if item is not None]
        self._beside, self._taken, self._inside = len(self._waiting), 0, 0

    def of(self, value: Any) -> Picture:
        return Picture(value, self._folder, self.label)

    def inside(self, value: Any) -> Picture:
        """A picture that stands in a message itself."""
        self._inside += 1
        return self.of(value)

    def take(self) -> Picture:
        self._taken += 1
        return self._waiting[self._taken - 1] if self._taken <= self._beside else self.of(None)  # the count is checked at the end

    def split(self, text: Any) -> Iterator[str | Picture]:
        """A text with a picture in place of each placeholder."""
        if not isinstance(text, str):
            raise BadRecord(f"{self.label}: {shown(text)} where a text was expected")
        first, *others = _SPLIT.split(text)
        yield from filter(None, [first])
        for other in others:
            yield self.take()
            yield from filter(None, [other])

    def placed(self, turns: list[Turn]) -> list[Turn]:
        """The turns; pictures that have no place in any text go before the user's first words. BadRecord if the counts differ."""
        user = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if self._taken == self._inside == 0 and user is not None:
            turns[user] = Turn("user", (*self._waiting, *turns[user].parts))
        elif self._taken != self._beside:
            raise BadRecord(f"{self.label}: {self._taken} places for pictures, but {self._beside} pictures")
        return turns


def _from_messages(fields: Mapping[str, Any], pictures: _Pictures) -> Iterator[Turn]:
    for message in _listed(fields["messages"], "messages", pictures.label):
        content = message.get("content")
        if isinstance(content, str):
            parts = tuple(pictures.split(content))
        else:
            parts = tuple(piece for part in _listed(content, "content", pictures.label) for piece in _piece(part, pictures))
        yield Turn(_role(message.get("role"), pictures.label), parts)


def _piece(part: Mapping[str, Any], pictures: _Pictures) -> Iterator[str | Picture]:
    """One part of a message: a text, or a picture that stands there or is the next one beside the messages."""
    given = {name: value for name, value in part.items() if value is not None}
    kind = given.get("type", "text" if "text" in given else None)
    if kind == "text":
        if not isinstance(given.get("text"), str):
            raise BadRecord(f"{pictures.label}: {shown(given.get('text'))} where a text was expected")
        yield given["text"]
    elif kind in ("image", "image_url"):
        value = next((given[name] for name in ("image", "path", "url", "image_url", "bytes") if name in given), None)
        yield pictures.take() if value is None else pictures.inside(value.get("url", value) if isinstance(value, Mapping) else value)
    else:
        raise BadRecord(f"{pictures.label}: a part of type {shown(kind)}, expected text or image")


def _from_llava(fields: Mapping[str, Any], pictures: _Pictures) -> Iterator[Turn]:
    for turn in _listed(fields["conversations"], "conversations", pictures.label):
        yield Turn(_role(turn.get("from"), pictures.label), tuple(pictures.split(turn.get("value"))))


def _from_finevision(fields: Mapping[str, Any], pictures: _Pictures) -> Iterator[Turn]:
    for exchange in _listed(fields["texts"], "texts", pictures.label):
        yield Turn("user", tuple(pictures.split(exchange.get("user"))))
        yield Turn("assistant", tuple(pictures.split(exchange.get("assistant"))))


def _from_question(fields: Mapping[str, Any], pictures: _Pictures) -> Iterator[Turn]:
    yield Turn("user", tuple(pictures.split(fields["question"])))
    yield Turn("assistant", tuple(pictures.split(_one_answer(fields["answer"], pictures.label))))


_LAYOUTS: Mapping[str, Callable[[Mapping[str, Any], _Pictures], Iterator[Turn]]] = {
    "messages": _from_messages,
    "conversations": _from_llava,
    "texts": _from_finevision,
    "question": _from_question,
}


def _one_answer(value: Any, label: str) -> str:
    """A text, a number, or a list of one of them."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRecord(f"{label}: the answer is {shown(value)}, expected one text or number")
    return str(value)


def _listed(value: Any, name: str, label: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, Mapping) for item in value):
        raise BadRecord(f"{label}: {name!r} is {shown(value)}, expected a list of objects")
    return value


def _role(value: Any, label: str) -> Role:
    if not isinstance(value, str) or value not in _ROLES:
        raise BadRecord(f"{label}: a turn of {shown(value)}, expected one of {', '.join(_ROLES)}")
    return _ROLES[value]


def _check_order(label: str, turns: Sequence[Turn]) -> None:
    roles = [turn.role for turn in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if talk != [("user", "assistant")[number % 2] for number in range(len(talk))] or len(talk) < 2 or len(talk) % 2:
        raise BadRecord(f"{label}: turns of {', '.join(roles[:12])}; expected user and assistant by turns, ending with the assistant")
    if any(isinstance(part, Picture) for turn in turns if turn.role != "user" for part in turn.parts):
        raise BadRecord(f"{label}: a picture in a turn that is not the user's")
    if not any(turn.text.strip() for turn in turns if turn.role == "assistant"):
        raise BadRecord(f"{label}: every answer is empty")
    if any("\ud800" <= letter <= "\udfff" for turn in turns for letter in turn.text):
        raise BadRecord(f"{label}: half of a surrogate pair, which is no text")
