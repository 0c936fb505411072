"""What a person must know before using a pruned model: what the papers found, and what nobody has looked at here."""

from __future__ import annotations

from hf_layerprune.publishing.facts import CardFacts

PAPER = "[domain-aware paper](https://arxiv.org/abs/2603.20275)"
# From tables 3, 5 and 6 of arXiv 2603.20275, as shared/reference/domain_aware_tables.json has them.
FOUND = (
    f"Reasoning suffers first. In the {PAPER}, removing 25 % of Qwen3-VL-4B's middle layers by the mixed ranking, with fine-tuning, took "
    "NuminaMath from 73.49 to 28.11 (table 3), but RealWorldQA only from 71.50 to 68.50 (table 5).",
    "A ranking by domain is not always the best one. On the 4B model at 10 %, CKA (40.24 on Snapask, 62.45 on NuminaMath) and even a "
    f"random choice (37.09, 56.83) were ahead of all three domain-aware rankings (35.83 and 55.50 at most) in the {PAPER}, table 3.",
    f"Fine-tuning changes a model too. The same fine-tuning alone, without pruning, took ChartQA on the 4B model from 84.00 to 35.12 "
    f"({PAPER}, table 6).",
)


def limit_lines(facts: CardFacts) -> list[str]:
    lines = [*FOUND] if facts.plan else [FOUND[2]]
    if facts.plan and not facts.healing:
        lines.append("It was not fine-tuned after layers were removed; both papers fine-tune before they measure.")
    lines.append(
        "Those are the papers' numbers for the papers' models, not this one's. What was measured of this model stands under Quality."
    )
    lines.append(
        "Safety, bias, other languages, long conversations, several pictures and video were not measured. Whatever limits the source has, "
        "this has too."
    )
    return lines
