"""The card on the Hub: merged with ours while our parts of it are as last pushed, and otherwise left to its owner."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Unpack

from hf_layerprune.artifacts.folder import README, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json, read_bounded
from hf_layerprune.checkpoint.folder import regular_file
from hf_layerprune.errors import LayerPruneError, PublishError, shown
from hf_layerprune.publishing.card import MAX_CARD_BYTES, card_facts, merge_card, our_parts, render_card, write_card
from hf_layerprune.publishing.contents import CARD_RECORD, Item
from hf_layerprune.publishing.facts import Named
from hf_layerprune.publishing.hub import Target
from hf_layerprune.publishing.merge import own_text, taken_keys
from hf_layerprune.publishing.preflight import Request

UNTOUCHED = our_parts("")  # of a card that has none of our parts: where none were ever pushed, nothing of ours was edited
KEPT = f"{README}: text that somebody wrote on the Hub is kept; text of yours beside hf-layerprune's parts is not sent."
KEPT_PUSHED = f"{README}: the text beside hf-layerprune's parts that an earlier push brought is kept, as this folder's card has none."
REPLACED = f"{README}: your text beside hf-layerprune's parts goes in place of the one that an earlier push brought."


class LocalCard:
    """The card of a folder, written anew beside a copy of the one that lies there: a push changes nothing in the folder.

    A context manager: `place` holds README.md and the figures for as long as it is open.
    """

    def __init__(self, folder: Path, repo: str, **named: Unpack[Named]) -> None:
        self._temporary = TemporaryDirectory(prefix="hf-layerprune-card-")
        self.place = Path(self._temporary.name)
        self.renewed = False
        try:
            self.text = self._write(folder, repo, named)
        except BaseException:
            self._temporary.cleanup()
            raise

    def __enter__(self) -> LocalCard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._temporary.cleanup()

    def _write(self, folder: Path, repo: str, named: Named) -> str:
        there = _card_in(folder)
        if there is not None:
            (self.place / README).write_bytes(there)
        text = write_card(folder, self.place / README, **named, repo=repo).read_text(encoding="utf-8")
        if there is not None:
            figures = frozenset(path.name for path in (self.place / RECORDS).glob("*.png"))
            here = render_card(replace(card_facts(folder, **named), figures=figures))  # as `card` writes it
            self.renewed = our_parts(there.decode("utf-8")) not in (our_parts(text), our_parts(here))
        return text


def card_items(target: Target | None, request: Request, local: str, names: Iterable[str]) -> tuple[Item, Item, str | None]:
    """The card to push, the record that the next push knows it by, and a line for people where somebody's text stays or goes.

    local: the folder's card; names: of the files that go with it. The record has the sha256 of our parts, that of the whole card
    while no text was written on the Hub, and the names of the records that are sent.

    PublishError where our parts were edited on the Hub, or a key was set that we set too, unless this opens a pull request,
    which a person looks at.
    """
    there = target.read(README, MAX_CARD_BYTES) if target else None
    if target is None or there is None:
        return *_items(local, True, names), None
    try:
        text = there.decode("utf-8")
        theirs, ours = own_text(text), own_text(local)
        untouched = hashlib.sha256(there).hexdigest() == target.card_record.get("sha256")
        if untouched and (ours or not theirs):  # what was edited here goes
            return *_items(local, True, names), REPLACED if theirs not in ("", ours) else None
        if not request.create_pr:
            _refuse_edited(target, text, local)
        merged = merge_card(text, local)
    except UnicodeDecodeError as error:
        raise PublishError(f"{target.id}/{README}: is no UTF-8 text. Correct it there, then push again.") from error
    except LayerPruneError as error:
        raise PublishError(f"{target.id}/{README}: {error}") from error
    kept = None if merged == local else KEPT_PUSHED if untouched else KEPT
    return *_items(merged, untouched or merged == local, names), kept


def _refuse_edited(target: Target, text: str, local: str) -> None:
    """PublishError where a merge would undo what a person did on the Hub: to our parts, or with a key that was not ours then."""
    pushed = target.card_record.get("parts") or UNTOUCHED
    if our_parts(text) not in (pushed, our_parts(local)):
        raise PublishError(
            "the parts that hf-layerprune wrote were edited there, which a push would undo. "
            "Propose the new card with --create-pr, or put those parts back."
        )
    if taken := taken_keys(text, local):
        raise PublishError(
            f"its metadata has {', '.join(map(shown, taken))}, which somebody set there and a push would set to something else. "
            "Propose the new card with --create-pr, or remove that there."
        )


def _card_in(folder: Path) -> bytes | None:
    """The card that lies in a folder; PublishError where it is a link out of it, or no file: it may not be the folder's to publish."""
    if not os.path.lexists(folder / README):
        return None
    try:
        return read_bounded(regular_file(folder, README, "Put a regular file there, or remove it."), "model card", MAX_CARD_BYTES)
    except LayerPruneError as error:
        raise PublishError(str(error)) from error


def _items(text: str, as_pushed: bool, names: Iterable[str]) -> tuple[Item, Item]:
    """as_pushed: whether all of the card came from a push, so that the next one may put another in its place."""
    card = Item.of_bytes(README, text.encode("utf-8"))
    records = sorted(name for name in names if name.startswith(f"{RECORDS}/"))
    record = {"format": 1, "parts": our_parts(text), "sha256": card.record.sha256 if as_pushed else None, "records": records}
    return card, Item.of_bytes(CARD_RECORD, dump_json(record))
