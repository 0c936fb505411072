"""The card on the Hub: merged with ours while our parts of it are as last pushed, and otherwise left to its owner."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from hf_layerprune.artifacts.files import dump_json, parse_json, read_bounded
from hf_layerprune.checkpoint.side_files import README
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.publishing.card import MAX_CARD_BYTES, merge_card, our_parts, write_card
from hf_layerprune.publishing.contents import CARD_RECORD, Item
from hf_layerprune.publishing.hub import Target
from hf_layerprune.publishing.preflight import Request

MAX_RECORD_BYTES = 64 << 10
UNTOUCHED = our_parts("")  # of a card that has none of our parts: nothing of ours can have been edited


class LocalCard:
    """The card of a folder, written anew beside a copy of the one that lies there: a push changes nothing in the folder.

    A context manager: `place` holds README.md and the figures for as long as it is open.
    """

    def __init__(self, folder: Path, repo: str, license: str | None, control: Path | None) -> None:
        self._temporary = TemporaryDirectory(prefix="hf-layerprune-card-")
        self.place = Path(self._temporary.name)
        self.renewed = False
        try:
            self.text = self._write(folder, repo, license, control)
        except BaseException:
            self._temporary.cleanup()
            raise

    def __enter__(self) -> LocalCard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._temporary.cleanup()

    def _write(self, folder: Path, repo: str, license: str | None, control: Path | None) -> str:
        there = read_bounded(folder / README, "model card", MAX_CARD_BYTES) if (folder / README).is_file() else None
        if there is not None:
            (self.place / README).write_bytes(there)
        text = write_card(folder, self.place / README, license=license, control=control, repo=repo).read_text(encoding="utf-8")
        self.renewed = there is not None and our_parts(there.decode("utf-8")) != our_parts(text)
        return text


def card_items(target: Target | None, request: Request, local: str) -> tuple[Item, Item, bool]:
    """The card to push, the record that the next push knows it by, and whether a text that was written on the Hub is kept.

    The record has the sha256 of our parts and, while no text was written on the Hub, that of the whole card.

    PublishError where our parts were edited on the Hub, unless this is a pull request, which a person looks at.
    """
    there = target.read(README, MAX_CARD_BYTES) if target else None
    if target is None or there is None:
        return *_items(local, local), False
    known = _record(target)
    if hashlib.sha256(there).hexdigest() == known.get("sha256"):
        return *_items(local, local), False  # nobody touched it there: what was edited here goes
    try:
        text = there.decode("utf-8")
        edited = our_parts(text) not in (known.get("parts"), our_parts(local), UNTOUCHED)
        merged = merge_card(text, local)
    except UnicodeDecodeError as error:
        raise PublishError(f"{target.id}/{README}: is no UTF-8 text. Correct it there, then push again.") from error
    except LayerPruneError as error:
        raise PublishError(f"{target.id}/{README}: {error}") from error
    if edited and not request.create_pr:
        raise PublishError(
            f"{target.id}/{README}: the parts that hf-layerprune wrote were edited there, which a push would undo. "
            "Propose the new card with --create-pr, or put those parts back."
        )
    return *_items(merged, local), merged != local


def _items(text: str, local: str) -> tuple[Item, Item]:
    card = Item.of_bytes(README, text.encode("utf-8"))
    record = {"format": 1, "parts": our_parts(text), "sha256": card.record.sha256 if text == local else None}
    return card, Item.of_bytes(CARD_RECORD, dump_json(record))


def _record(target: Target) -> dict[str, object]:
    """What the last push wrote down of its card; nothing where there was none, or the record is none."""
    content = target.read(CARD_RECORD, MAX_RECORD_BYTES)
    try:
        return parse_json(content, f"{target.id}/{CARD_RECORD}", "record of the card") if content else {}
    except LayerPruneError:
        return {}
