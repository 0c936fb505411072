"""The card on the Hub: merged with ours while our parts of it are as last pushed, and otherwise left to its owner."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hf_layerprune.artifacts.folder import README, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json
from hf_layerprune.checkpoint.files import regular_file
from hf_layerprune.errors import LayerPruneError, PublishError, shown
from hf_layerprune.publishing.card import MAX_CARD_BYTES, read_card
from hf_layerprune.publishing.contents import CARD_RECORD, Item
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import merge_card, our_parts, own_text, taken_keys
from hf_layerprune.publishing.options import PushOptions
from hf_layerprune.publishing.target import Target
from hf_layerprune.publishing.template import render_card

UNTOUCHED = our_parts("")  # of a card that has none of our parts: where none were ever pushed, nothing of ours was edited
RENEWED = f"{README}: written anew from the records and options of today; `hf-layerprune card` does the same in the folder."
KEPT = f"{README}: text that somebody wrote on the Hub is kept; text of yours beside hf-layerprune's parts is not sent."
KEPT_PUSHED = f"{README}: the text beside hf-layerprune's parts that an earlier push brought is kept, as this folder's card has none."
REPLACED = f"{README}: your text beside hf-layerprune's parts goes in place of the one that an earlier push brought."


def local_card(folder: Path, facts: CardFacts, repo: str) -> tuple[str, str | None]:
    """The folder's card as it is pushed to `repo`, merged with the one that lies there, and a line for people if that was another.

    PublishError where what lies there is a link out of the folder, or no file: it may not be the folder's to publish.
    """
    card = render_card(replace(facts, repo=repo))
    if not os.path.lexists(folder / README):
        return card, None
    try:
        there = read_card(regular_file(folder, README, "Put a regular file there, or remove it."))
        merged = merge_card(there, card)
        as_written = (our_parts(merged), our_parts(render_card(facts)))  # by a push, and by `card`
        return merged, RENEWED if our_parts(there) not in as_written else None
    except LayerPruneError as error:
        raise PublishError(str(error)) from error


def card_items(target: Target | None, local: str, names: Iterable[str], options: PushOptions) -> tuple[Item, Item, str | None]:
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
        if not options.create_pr:
            _refuse_edited(target, text, local)
        merged = merge_card(text, local)
    except UnicodeDecodeError as error:
        raise PublishError(f"{target.id}/{README}: it is not UTF-8 text. Correct it there, then push again.") from error
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


def _items(text: str, as_pushed: bool, names: Iterable[str]) -> tuple[Item, Item]:
    """as_pushed: whether all of the card came from a push, so that the next one may put another in its place."""
    card = Item.of(README, text.encode("utf-8"))
    records = sorted(name for name in names if name.startswith(f"{RECORDS}/"))
    record = {"format": 1, "parts": our_parts(text), "sha256": card.record.sha256 if as_pushed else None, "records": records}
    return card, Item.of(CARD_RECORD, dump_json(record))
