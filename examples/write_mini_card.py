"""Write mini's card from the record of its training: every number in it stands in `cards/mini/training.json`.

    python examples/write_mini_card.py

CI writes it again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.prompts import domain_of, prompts

CARD = Path(__file__).parent.parent / "cards" / "mini"


def render(record: dict[str, Any]) -> str:
    """The card's text."""
    scores, count = record["held_out_exact_match"], record["samples_per_subtask"]
    rows = "\n".join(
        f"| `{name}` | {prompts()[domain_of(name)][name]} | {100 * score:.1f} ± {100 * (score * (1 - score) / count) ** 0.5:.1f} |"
        for name, score in scores.items()
    )
    stop = f" --stop {record['steps']}" if record["steps"] != record["schedule_steps"] else ""
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
of the package and trained so that pruning it costs measurable accuracy. It knows two domains of 64-pixel pictures that
`hf_layerprune/mini/` draws: small arithmetic written in columns, and coloured shapes. It answers the nine probing prompts about
them, and nothing else.

## Held-out accuracy

Exact match of the greedy answer in %, with its standard error, on {count} pictures a prompt that were never drawn in training,
probing or healing; weights in bf16, arithmetic in fp32.

| prompt | text | exact match |
|---|---|---|
{rows}

Half of the pictures for `math-verify` have a number that cannot be read; for the other prompts every number can.

## Training

From nothing, in {record["seconds"] / 60:.0f} minutes on {record["machine"]}: {record["steps"]:,} steps of {record["batch"]}
samples, AdamW at {record["lr"]} with a cosine schedule over {record["schedule_steps"]:,} steps, loss on the answers alone, seed
{record["seed"]}. The loss curve is in `training.json`.

```sh
python examples/train_mini.py --output build/mini --steps {record["schedule_steps"]}{stop}
```
"""


def main() -> None:
    record = json.loads((CARD / "training.json").read_text(encoding="utf-8"))
    (CARD / "README.md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
