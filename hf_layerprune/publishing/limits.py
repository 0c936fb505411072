"""What a person must know before using a pruned model: what the papers found, and what nobody has looked at here."""

from __future__ import annotations

from collections.abc import Mapping

from hf_layerprune.publishing.facts import CardFacts

PAPER = "[domain-aware paper](https://arxiv.org/abs/2603.20275)"
MATH = ("Snapask", "NuminaMath")
# Of Qwen3-VL-4B in arXiv 2603.20275: accuracy in % by table, then by row: test set, method and share of the middle layers removed.
# "dense" is the model as it is, "dense+sft" after the same fine-tuning alone; all other rows are fine-tuned after pruning.
TABLES: Mapping[int, Mapping[tuple[str, str, str | None], float]] = {
    3: {
        ("NuminaMath", "dense", None): 73.49,
        ("NuminaMath", "mixed", "0.25"): 28.11,
        ("Snapask", "cka", "0.10"): 40.24,
        ("Snapask", "random", "0.10"): 37.09,
        ("Snapask", "math", "0.10"): 35.83,
        ("Snapask", "nonmath", "0.10"): 33.54,
        ("Snapask", "mixed", "0.10"): 33.23,
        ("NuminaMath", "cka", "0.10"): 62.45,
        ("NuminaMath", "random", "0.10"): 56.83,
        ("NuminaMath", "math", "0.10"): 52.41,
        ("NuminaMath", "nonmath", "0.10"): 55.50,
        ("NuminaMath", "mixed", "0.10"): 54.42,
    },
    5: {("RealWorldQA", "dense", None): 71.50, ("RealWorldQA", "mixed", "0.25"): 68.50},
    6: {("ChartQA", "dense", None): 84.00, ("ChartQA", "dense+sft", None): 35.12},
}


def found_lines() -> tuple[str, str, str]:
    """What the papers found that concerns any pruned model; every number is one of `TABLES`."""

    def number(table: int, test: str, method: str, budget: str | None = None) -> str:
        return f"{TABLES[table][test, method, budget]:.2f}"

    def ranked(method: str, on: str = "") -> str:
        return ", ".join(number(3, test, method, "0.10") + (f" {on} {test}" if on else "") for test in MATH)

    domain_aware = " and ".join(f"{max(TABLES[3][test, method, '0.10'] for method in ('math', 'nonmath', 'mixed')):.2f}" for test in MATH)
    return (
        f"Reasoning suffers first. In the {PAPER}, removing 25 % of Qwen3-VL-4B's middle layers by the mixed ranking, with fine-tuning, "
        f"took NuminaMath from {number(3, 'NuminaMath', 'dense')} to {number(3, 'NuminaMath', 'mixed', '0.25')} (table 3), but RealWorldQA "
        f"only from {number(5, 'RealWorldQA', 'dense')} to {number(5, 'RealWorldQA', 'mixed', '0.25')} (table 5).",
        f"A ranking by domain is not always the best one. On the 4B model at 10 %, CKA ({ranked('cka', 'on')}) and "
        f"even a random choice ({ranked('random')}) were ahead of all three domain-aware rankings ({domain_aware} at most) in the "
        f"{PAPER}, table 3.",
        "Fine-tuning changes a model too. The same fine-tuning alone, without pruning, took ChartQA on the 4B model from "
        f"{number(6, 'ChartQA', 'dense')} to {number(6, 'ChartQA', 'dense+sft')} ({PAPER}, table 6).",
    )


def limit_lines(facts: CardFacts) -> list[str]:
    found = found_lines()
    lines = [*found] if facts.plan else [found[2]]
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
