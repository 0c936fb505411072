"""`hf-layerprune inspect`: what a model is, and what each budget would remove."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting

if TYPE_CHECKING:
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.quantized import Quantized


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
    from hf_layerprune.checkpoint.quantized import QuantizedError
    from hf_layerprune.cli.report import count, model_line, reading_line, size
    from hf_layerprune.cli.source import open_description
    from hf_layerprune.strategies.options import format_layers, protected_layers

    try:
        checkpoint, reading = open_description(console, source, lookup)
    except QuantizedError as error:
        _describe(console, error.found)
        return
    facts, protected = checkpoint.facts, protected_layers(checkpoint.facts, "default")
    tied = "tied" if checkpoint.tied else "not tied"
    console.say(f"{model_line(checkpoint)} · {size(checkpoint.total_bytes)} · embeddings {tied}")
    fed = f", and the {facts.deepstack_layers} that receive DeepStack features" if facts.deepstack_layers else ""
    console.say(f"protected by default: {format_layers(protected)} (first, last{fed})")
    if facts.original_layers is not None:
        console.say(f"already pruned: its layers are {format_layers(facts.original_layers)} of the first ancestor")
    console.say(f"\n budget  {'removes':>8}  {'layers left':>11}  {'parameters':>10}  {'on disk':>9}")
    rows = _budgets(checkpoint)
    for row in rows[1:]:
        removes, left = row["removes"] or "none", row["layers"]
        console.say(f"{row['budget']:>7}  {removes:>8}  {left:>11}  {count(row['parameters']):>10}  {size(row['bytes']):>9}")
    console.say("\n memory     weights  cache of 1,000  probe: GPU      CPU  heal: LoRA    layers")
    for row in rows:
        found = row["memory"]
        heal = [size(found["heal"][name]) for name in ("domain-aware", "interlace")]
        values = [size(found[name]) for name in ("weights", "cache", "probe", "probe_cpu")]
        console.say(f"{row['budget']:>7}  {values[0]:>10}  {values[1]:>14}  {values[2]:>10}  {values[3]:>7}  {heal[0]:>10}  {heal[1]:>8}")
    console.say("        estimates, on one device: serving in bf16, an image of a megapixel to probe, the recipes' own batches to heal")
    if reading:
        console.say(reading_line(reading))
    shown = facts.to_dict() | {
        "protected": list(protected),
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.total_bytes,
        "tied": checkpoint.tied,
    }
    console.result(shown | {"memory": rows[0]["memory"], "budgets": rows[1:], "network_bytes": reading.bytes if reading else 0})


def _budgets(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The model as it is, and what each of the paper's budgets removes and leaves; a share of few layers can be less than one."""
    from hf_layerprune.checkpoint.memory import estimate
    from hf_layerprune.errors import UsageError
    from hf_layerprune.healing.recipes import RECIPES
    from hf_layerprune.strategies.options import PlanOptions
    from hf_layerprune.strategies.planning import resolve_budget

    rows: list[dict[str, Any]] = []
    removed = {"0%": 0}
    for share in ("10%", "25%", "40%"):
        removed[share] = 0
        with suppress(UsageError):
            removed[share] = resolve_budget(checkpoint.facts.layers, PlanOptions(budget=share)).layers
    for share, k in removed.items():
        left = checkpoint.facts.layers - k
        parameters, total = checkpoint.size(range(left, checkpoint.facts.layers))
        rows.append({"budget": share, "removes": k, "layers": left, "parameters": parameters, "bytes": total})
        rows[-1]["memory"] = asdict(estimate(checkpoint, left, RECIPES))
    return rows


def _describe(console: Console, found: Quantized) -> None:
    """What a quantized model is; that it cannot be pruned, and what to do instead."""
    from hf_layerprune.cli.report import size

    console.say(f"{found.id} · {found.family} · {found.layers} decoder layers x {found.hidden_size} · quantized by {found.method}")
    if found.settings:
        console.say("how     " + ", ".join(f"{key} {value}" for key, value in found.settings.items()))
    console.say("tensors " + ", ".join(f"{count:,} {dtype} ({size(total)})" for dtype, (count, total) in found.tensors.items()))
    if found.skipped:
        console.say(f"        {len(found.skipped)} modules are not quantized, such as {', '.join(found.skipped[:3])}")
    console.say("It cannot be pruned: prune the unquantized model, and quantize the result.")
    console.result({"quantized": found.to_dict()})
