"""`hf-layerprune inspect`: what a model is, and what each budget would remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting

if TYPE_CHECKING:
    from hf_layerprune.checkpoint.index import Checkpoint


@click.command(
    short_help="Show a model's layers and what each budget would remove.",
    epilog=options.examples("hf-layerprune inspect mini", "hf-layerprune inspect Qwen/Qwen3-VL-4B-Instruct --json"),
)
@click.argument("source")
@options.lookup
@reporting
def inspect(console: Console, source: str, lookup: options.Lookup) -> None:
    """Describe SOURCE from its config and headers: family, depth, size, protected layers, and budgets of 10, 25 and 40 %.

    Of a Hub id no weights are downloaded.
    """
    from hf_layerprune.cli.report import count, model_line, reading_line, size
    from hf_layerprune.cli.source import open_description
    from hf_layerprune.strategies.options import format_layers, protected_layers

    checkpoint, reading = open_description(console, source, lookup)
    facts, protected = checkpoint.facts, protected_layers(checkpoint.facts, "default")
    tied = "tied" if checkpoint.tied else "not tied"
    console.say(f"{model_line(checkpoint)} · {size(checkpoint.total_bytes)} · embeddings {tied}")
    fed = f", and the {facts.deepstack_layers} that receive DeepStack features" if facts.deepstack_layers else ""
    console.say(f"protected by default: {format_layers(protected)} (first, last{fed})")
    if facts.original_layers is not None:
        console.say(f"already pruned: its layers are {format_layers(facts.original_layers)} of the first ancestor")
    console.say(f"\n budget  {'removes':>8}  {'layers left':>11}  {'parameters':>10}  {'on disk':>9}")
    rows = _budgets(checkpoint)
    for row in rows:
        removes, left = row["removes"] or "none", row["layers"]
        console.say(f"{row['budget']:>7}  {removes:>8}  {left:>11}  {count(row['parameters']):>10}  {size(row['bytes']):>9}")
    if reading:
        console.say(reading_line(reading))
    shown = facts.to_dict() | {
        "protected": list(protected),
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.total_bytes,
        "tied": checkpoint.tied,
    }
    console.result(shown | {"budgets": rows, "network_bytes": reading.bytes if reading else 0})


def _budgets(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What each of the paper's budgets removes and leaves; a share of few layers can be less than one."""
    from hf_layerprune.errors import UsageError
    from hf_layerprune.strategies.options import PlanOptions
    from hf_layerprune.strategies.planning import resolve_budget

    rows = []
    for share in ("10%", "25%", "40%"):
        try:
            k = resolve_budget(checkpoint.facts.layers, PlanOptions(budget=share)).layers
        except UsageError:
            k = 0
        left = checkpoint.facts.layers - k
        parameters, total = checkpoint.size(range(left, checkpoint.facts.layers))
        rows.append({"budget": share, "removes": k, "layers": left, "parameters": parameters, "bytes": total})
    return rows
