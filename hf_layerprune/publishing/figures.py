"""The card's figures, drawn from the records in a light and a dark version."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hf_layerprune.artifacts.folder import LAYER_MAP, LAYER_MAP_DARK, LOSS, LOSS_DARK, RECORDS
from hf_layerprune.artifacts.jsonfile import read_bounded
from hf_layerprune.checkpoint.folder import regular_file
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.figures.layer_map import draw_map
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import DARK, LIGHT, can_draw
from hf_layerprune.publishing.facts import CardFacts

MAX_FIGURE_BYTES = 8 << 20
PNG = b"\x89PNG\r\n\x1a\n"


def draw_figures(facts: CardFacts) -> dict[str, bytes]:
    """PNGs by file name: the layer map of a pruned model, the loss of a healed one. None of them where matplotlib is not installed."""
    if not can_draw():
        return {}
    found: dict[str, bytes] = {}
    if facts.plan:
        found |= {LAYER_MAP: draw_map(facts.plan, facts.statistics, LIGHT), LAYER_MAP_DARK: draw_map(facts.plan, facts.statistics, DARK)}
    if facts.healing and facts.healing.steps:
        found |= {LOSS: draw_loss(facts.healing.curve["loss"], LIGHT), LOSS_DARK: draw_loss(facts.healing.curve["loss"], DARK)}
    return found


def kept_figures(folder: Path, facts: CardFacts) -> dict[str, bytes]:
    """The figures that an earlier card left in a folder, as they are; of a figure both versions, or neither."""
    found = {name: content for pair in _wanted(facts) for name in pair if (content := _read(folder, name))}
    return {name: found[name] for pair in _wanted(facts) if found.keys() >= {*pair} for name in pair}


def figures_note(folder: Path, facts: CardFacts) -> str | None:
    """What a person must know where figures are missing that cannot be drawn here, and how to get them; None otherwise."""
    kept = {} if can_draw() else kept_figures(folder, facts)
    missing = [light for light, dark in _wanted(facts) if light not in kept]
    if can_draw() or not missing:
        return None
    return f"the card has no figures ({', '.join(missing)}): matplotlib draws them, and is not installed (pip install matplotlib)."


def _wanted(facts: CardFacts) -> list[tuple[str, str]]:
    """The light and the dark version of each figure that the records hold."""
    healed = facts.healing is not None and facts.healing.steps > 0
    return [pair for pair, there in (((LAYER_MAP, LAYER_MAP_DARK), facts.plan), ((LOSS, LOSS_DARK), healed)) if there]


def _read(folder: Path, name: str) -> bytes | None:
    """A figure of the folder's records, None if it is missing or not a PNG."""
    with suppress(LayerPruneError):
        content = read_bounded(regular_file(folder, f"{RECORDS}/{name}", ""), "figure", MAX_FIGURE_BYTES)
        return content if content.startswith(PNG) else None
    return None
