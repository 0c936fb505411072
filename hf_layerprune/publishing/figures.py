"""The card's figures, drawn from the records in a light and a dark version."""

from __future__ import annotations

from hf_layerprune.figures.layer_map import LAYER_MAP, LAYER_MAP_DARK, draw_map
from hf_layerprune.figures.loss import LOSS, LOSS_DARK, draw_loss
from hf_layerprune.figures.theme import DARK, LIGHT, can_draw
from hf_layerprune.publishing.facts import CardFacts


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
