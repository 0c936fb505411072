"""The names of the files that a checkpoint holds beside its weights, each said once."""

from __future__ import annotations

import re

CONFIG = "config.json"
README = "README.md"
RECORDS = "layerprune"  # the folder of our records

PLAN = "plan.json"
STATISTICS = "statistics.safetensors"
MANIFEST = "manifest.json"
PROVENANCE = "source.json"
HEALING = "healing.json"
EVALUATION = "eval.json"
ANSWERS, OTHER_ANSWERS = "answers.jsonl", "answers-against.jsonl"
CONTROL_EVALUATION, CONTROL_HEALING = "control-eval.json", "control-healing.json"  # of the source after the same fine-tuning
PRUNED_EVALUATION = "pruned-eval.json"  # of the pruned model before it was fine-tuned
LICENSE = "license.json"  # the license as a person named it
LAYER_MAP, LAYER_MAP_DARK = "layer-map.png", "layer-map-dark.png"
LOSS, LOSS_DARK = "loss.png", "loss-dark.png"

CARD_MARK = "<!-- hf-layerprune:"  # how a comment of ours in a card begins: of a part, "begin NAME" or "end NAME"
CARD = "card.json"  # of a card as it was pushed
OURS = frozenset(
    f"{RECORDS}/{name}"
    for name in (
        *(PLAN, STATISTICS, MANIFEST, PROVENANCE, HEALING, EVALUATION, ANSWERS, OTHER_ANSWERS, LICENSE, CARD),
        *(CONTROL_EVALUATION, CONTROL_HEALING, PRUNED_EVALUATION, LAYER_MAP, LAYER_MAP_DARK, LOSS, LOSS_DARK),
    )
)  # every record, by its path in a model's folder


def safe_name(name: object) -> bool:
    """Whether a relative path stays inside its folder on every system: no `..`, no root, no backslash, drive or control character."""
    if not isinstance(name, str) or len(name) > 1024 or re.search(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:", name):
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # bytes of a file name that are not UTF-8
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))
