"""`hf-layerprune plan`: choose layers from statistics, without the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.strategies.options import PlanOptions


@click.command(
    short_help="Choose layers from statistics, without the model.",
    epilog=options.examples(
        "hf-layerprune plan statistics.safetensors --method interlace --budget 25% -o plan.json",
        "hf-layerprune plan mini --method random --set seed=7 --num-layers 4 -o plan.json",
    ),
)
@click.argument("origin", metavar="FROM")
@options.planning
@options.output("the plan", "FILE")
@options.overwrite
@options.lookup
@reporting
def plan(console: Console, origin: str, planning: PlanOptions, output: Path, overwrite: bool, lookup: dict[str, Any]) -> None:
    """Write the plan of which layers to remove. FROM is a statistics file, a pruned folder or Hub id that has one, or a model.

    Statistics beside a pruned model are those of the model it was cut from, and so is the plan. A model without statistics
    gets a plan by methods that need none. Of a Hub id no weights are downloaded.
    """
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.cli.journey import show_plan
    from hf_layerprune.cli.origin import plan_origin, source_of
    from hf_layerprune.cli.outputs import check_file
    from hf_layerprune.strategies.planning import make_plan
    from hf_layerprune.strategies.request import resolve

    check_file(output, overwrite, PruningPlan.load, "plan", Path(origin) if os.path.isdir(origin) else None)
    facts, statistics = plan_origin(console, origin, lookup)
    made = make_plan(facts, resolve(facts, planning), statistics)
    show_plan(console, made, statistics, facts)
    made.save(output)
    console.say(f"wrote   {options.quoted(output)}, a plan for {facts.source.id}")
    console.say(f"next    hf-layerprune apply {source_of(origin, facts, statistics)} {options.quoted(output)} -o DIR")
    console.result({"output": str(output), "plan": made.to_dict()})
