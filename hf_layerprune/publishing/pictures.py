"""The figures as the card shows them: light and dark by the reader's choice, with words for those who cannot see them."""

from __future__ import annotations

from hf_layerprune.artifacts.folder import LAYER_MAP, LAYER_MAP_DARK, LOSS, LOSS_DARK
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.layer_map import removed_label
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.inert import Markdown


def map_picture(facts: CardFacts) -> Markdown | None:
    if facts.plan is None or LAYER_MAP not in facts.figures:
        return None
    drop = facts.plan.drop
    removed = f"{'layer' if len(drop) == 1 else 'layers'} {', '.join(map(str, drop))}"
    shown = (
        "How much each decoder layer changes what passes through it, on math and on general pictures"
        if facts.statistics
        else "The decoder layers"
    )
    return _picture(
        facts,
        LAYER_MAP,
        LAYER_MAP_DARK,
        f"{shown}; {removed_label(facts.plan)}: {removed} of {facts.plan.layers}. The numbers are in layerprune/plan.json.",
    )


def loss_picture(facts: CardFacts) -> Markdown | None:
    if facts.healing is None or LOSS not in facts.figures:
        return None
    first, last = loss_means(facts.healing)
    words = f"The loss over {facts.healing.steps:,} steps: {first:.4f} in the mean over the first tenth, {last:.4f} over the last."
    return _picture(facts, LOSS, LOSS_DARK, words)


def loss_means(healing: HealingRecord) -> tuple[float, float]:
    """The mean loss over the first and the last tenth of the steps, at least one step each, in nats an answer token."""
    loss, tenth = healing.curve["loss"], max(1, healing.steps // 10)
    return sum(loss[:tenth]) / tenth, sum(loss[-tenth:]) / tenth


def _picture(facts: CardFacts, light: str, dark: str, words: str) -> Markdown:
    """The Hub looks for the `src` of a picture in the repository; nobody promises that for a `srcset`, so that is given in full."""
    there = f"layerprune/{dark}"
    if facts.repo:
        from huggingface_hub import constants

        there = f"{constants.ENDPOINT}/{facts.repo}/resolve/main/{there}"
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{there}">'
    return Markdown(f'<picture>\n  {source}\n  <img src="layerprune/{light}" alt="{words}">\n</picture>')
