"""Write mini's card from the record of its training: every number in it stands in `cards/mini/training.json`.

    python examples/write_mini_card.py

CI writes it again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.prompts import domain_of, prompts
from hf_layerprune.artifacts.scores import Tally
from hf_layerprune.mini.generator import SHARES

CARD = Path(__file__).parent.parent / "cards" / "mini"


def render(record: dict[str, Any]) -> str:
    """The card's text."""
    scores, count = record["held_out_exact_match"], record["samples_per_subtask"]
    rows = "\n".join(f"| `{name}` | {prompts()[domain_of(name)][name]} | {_share(score, count)} |" for name, score in scores.items())
    of = sum(SHARES.values())
    shares = ", ".join(f"`{split}` {100 * share // of} %" for split, share in SHARES.items())
    validation = "\n".join(
        f"| {row['step']:,} | " + " | ".join(f"{100 * row['exact_match'][name]:.0f}" for name in scores) + " |"
        for row in record["validation"]
        if row["step"] % (record["steps"] // 10) == 0
    )
    return f"""---
license: apache-2.0
language: en
pipeline_tag: image-text-to-text
library_name: transformers
tags:
- qwen3_vl
- synthetic
---

# mini

A real `Qwen3VLForConditionalGeneration` of 3.83 M parameters, 16 decoder layers and 3 DeepStack taps, small enough to be part
of the package and trained so that pruning it costs measurable accuracy. It knows two domains of 64-pixel images that
`hf_layerprune/mini/` draws: arithmetic written in columns, and coloured shapes. It answers the nine probing prompts about them,
and nothing else.

## Held-out accuracy

Exact match of the greedy answer in %, with its standard error, on {count} images a prompt whose problems and scenes were never
seen in training; weights in bf16, arithmetic in fp32.

| prompt | text | exact match |
|---|---|---|
{rows}

Half of the images for `math-verify` have a number that cannot be read; for the other prompts every number can.

## What was held out, and how

Every problem and every scene belongs to one split by a hash of its content:
{shares}.
The content of a problem is its numbers and operations in canonical form (a + b and b + a are one); if a number is hidden, both what
is hidden and what is left must belong to the split. The content of a scene is the multiset of its objects with colour, shape and
size, wherever they stand. A test draws all {sum(record["samples"].values()):,} training samples again and compares them with every
other split, by content and by pixels.
Each split has more than two thousand problems and thousands of scenes; scenes of a single object are few (48 in all).

A problem in two steps contains a smaller one: 37 + 5 + 8 may be held out while 37 + 5 was seen.

## Training

From nothing, in {record["seconds"] / 60:.0f} minutes on {record["machine"]}: {record["steps"]:,} steps,
AdamW at {record["lr"]} with a cosine schedule, loss on the answers alone, seed {record["seed"]}. It was shown
{sum(record["samples"].values()):,} images with one question each, and {record["problems_in_text"]:,} draws of the training split's
problems in plain text, which teach it to calculate at few tokens a problem. The phases and the loss curves are in `training.json`.
The phases were chosen by looking at the split `validate`; `evaluate` was measured once, at the end. Exact match in % on 100 images
a prompt of `validate` while it was trained:

| step | {" | ".join(f"`{name}`" for name in scores)} |
|---:|{"---:|" * len(scores)}
{validation}

```sh
python examples/train_mini.py --output build/mini
```
"""


def _share(score: float, count: int) -> str:
    """A share in % with its standard error, or, where that says nothing, the end of its 95 % Wilson interval."""
    tally = Tally(count, round(score * count), 0)
    sign, value = tally.spread
    return f"{tally.accuracy:.1f} {sign} {value:.1f}"


def main() -> None:
    record = json.loads((CARD / "training.json").read_text(encoding="utf-8"))
    (CARD / "README.md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
