"""The model card: a README.md that says what a model is, what was done to it and what that cost, from its records alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hf_layerprune.artifacts.folder import (
    CONTROL_EVALUATION,
    CONTROL_HEALING,
    LAYER_MAP,
    LAYER_MAP_DARK,
    LICENSE,
    LOSS,
    LOSS_DARK,
    MANIFEST,
    PRUNED_EVALUATION,
    README,
    RECORDS,
)
from hf_layerprune.artifacts.jsonfile import dump_json, read_bounded, write_atomic
from hf_layerprune.checkpoint.files import regular_file
from hf_layerprune.checkpoint.output_place import check_outside_ours, parents_made
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.figures.layer_map import draw_map
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import DARK, LIGHT, can_draw
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import merge_card
from hf_layerprune.publishing.options import CardOptions
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card

MAX_CARD_BYTES = MAX_FIGURE_BYTES = 8 << 20
MAP, CURVE = (LAYER_MAP, LAYER_MAP_DARK), (LOSS, LOSS_DARK)
PNG = b"\x89PNG\r\n\x1a\n"


def write_card(folder: Path, output: Path | None = None, options: CardOptions = CardOptions()) -> Path:
    """Write a folder's card and its figures, merged with the card that is there; the path of the card.

    output: another file for it, which gets the figures beside it; needed where the folder is a download, which is left as it is.
    What the options name is put beside the card, and the next card finds it there. Where matplotlib is missing, the figures of an
    earlier card are kept. PublishError if hf-layerprune did not make the folder, or the card that is there cannot be merged; then
    nothing is changed.
    """
    folder = Path(folder)
    facts = card_facts(folder, options)
    place = _place(folder, output)
    beside = files_beside(folder, facts, options)
    card = render_card(replace(facts, figures=frozenset(beside)))
    try:
        if place.is_file():
            card = merge_card(read_card(place), card)
        with parents_made(place):
            _write(place, card, beside)
    except OSError as error:
        raise PublishError(f"{place}: writing it failed: {error.strerror or error}. Choose another place with -o.") from error
    except LayerPruneError as error:
        raise PublishError(f"{place}: {error}" if str(place) not in str(error) else str(error)) from error
    return place


def files_beside(folder: Path, facts: CardFacts, options: CardOptions) -> dict[str, bytes]:
    """What goes into layerprune/ with a card: its figures, the license, and the records of the models that it is compared with."""
    found = draw_figures(facts) or _kept_figures(folder, facts)
    if options.control and facts.control and facts.control_healing:
        found |= {CONTROL_EVALUATION: dump_json(facts.control.to_dict()), CONTROL_HEALING: facts.control_healing.dump()}
    if options.pruned and facts.pruned:
        found[PRUNED_EVALUATION] = dump_json(facts.pruned.to_dict())
    if options.license:
        found[LICENSE] = dump_json({"format": 1, "license": options.license})
    return found


def figures_note(folder: Path, facts: CardFacts) -> str | None:
    """What a person must know where figures are missing that cannot be drawn here, and how to get them; None otherwise."""
    kept = _kept_figures(folder, facts)
    missing = [light for light, _ in _wanted(facts) if light not in kept]
    if can_draw() or not missing:
        return None
    return f"the card has no figures ({', '.join(missing)}): matplotlib draws them, and is not installed (pip install matplotlib)."


def draw_figures(facts: CardFacts) -> dict[str, bytes]:
    """PNGs by file name, in a light and a dark version; none where matplotlib is not installed."""
    found: dict[str, bytes] = {}
    for names in _wanted(facts) if can_draw() else []:
        for name, theme in zip(names, (LIGHT, DARK), strict=True):
            if facts.plan and names == MAP:
                found[name] = draw_map(facts.plan, facts.statistics, theme)
            elif facts.healing:
                found[name] = draw_loss(facts.healing.curve["loss"], theme)
    return found


def read_card(path: Path) -> str:
    """The text of a card that is there; PublishError if it is no text or too long."""
    try:
        return read_bounded(path, "model card", MAX_CARD_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{path}: the card that is there is not UTF-8 text ({error.reason}). Correct it, or move it away.") from error


def _wanted(facts: CardFacts) -> list[tuple[str, str]]:
    """The names of the light and the dark version of each figure that the records hold."""
    healed = facts.healing is not None and facts.healing.steps > 0
    return [names for names, there in ((MAP, facts.plan), (CURVE, healed)) if there]


def _kept_figures(folder: Path, facts: CardFacts) -> dict[str, bytes]:
    """The figures that an earlier card left in a folder, as they are; of a figure both versions, or neither."""
    pairs = [{name: content for name in names if (content := _kept(folder, name))} for names in _wanted(facts)]
    return {name: content for pair in pairs if len(pair) == 2 for name, content in pair.items()}


def _kept(folder: Path, name: str) -> bytes | None:
    """A figure of the folder's records, None if it is missing or not a PNG."""
    with suppress(LayerPruneError):
        content = read_bounded(regular_file(folder, f"{RECORDS}/{name}", ""), "figure", MAX_FIGURE_BYTES)
        return content if content.startswith(PNG) else None
    return None


def _place(folder: Path, output: Path | None) -> Path:
    """Where the card goes: into a folder that we made, else to a file that is named."""
    place = output or folder / README
    if place.is_dir():
        place = place / README
    own, beside = place.parent.resolve() == folder.resolve(), place.parent / RECORDS
    if place.is_symlink() or (own and (folder / RECORDS / MANIFEST).is_symlink()):
        raise PublishError(f"{place}: a link, as in a download's cache, which is left as it is. Name a file for the card with -o.")
    if beside.is_symlink():
        raise PublishError(f"{beside}: a link, and the card's figures go there. Name a place for the card with -o.")
    if not own and os.path.lexists(beside / MANIFEST):
        raise PublishError(f"{place}: {place.parent} holds another model, whose records are left as they are. Name another place with -o.")
    if not (own and place.name == README):
        check_outside_ours(place)
    return place


def _write(place: Path, card: str, beside: Mapping[str, bytes]) -> None:
    """The card last, so that it shows nothing that is not there; where that fails, a folder that was made for it goes."""
    records = place.parent / RECORDS
    made = bool(beside) and not records.exists()
    try:
        if made:
            records.mkdir()
        for name, content in beside.items():
            write_atomic(records / name, content)
        write_atomic(place, card.encode("utf-8", "replace"))
    except BaseException:
        if made:
            shutil.rmtree(records, ignore_errors=True)
        raise
