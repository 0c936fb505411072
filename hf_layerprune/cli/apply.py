"""`hf-layerprune apply`: carry a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="Write the pruned model that a plan describes.",
    epilog=options.examples(
        "hf-layerprune apply mini plan.json --statistics statistics.safetensors -o ./mini-13L",
        "hf-layerprune apply Qwen/Qwen3-VL-8B-Instruct plan.json -o ./qwen --max-shard-size 5GB",
    ),
)
@click.argument("source")
@click.argument("plan", type=options.PATH)
@click.option("--statistics", type=options.PATH, metavar="FILE", help="Put these, which the plan was made from, beside it.")
@options.output("the pruned model", "DIR")
@options.overwrite
@options.writing
@options.lookup
@reporting
def apply(
    console: Console,
    source: str,
    plan: Path,
    statistics: Path | None,
    output: Path,
    overwrite: bool,
    writing: dict[str, Any],
    lookup: dict[str, Any],
) -> None:
    """Remove the layers that PLAN drops from SOURCE, which must be the very checkpoint that the plan was made for."""
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.checkpoint.staging import check_output
    from hf_layerprune.cli.journey import show_next, statistics_record, write_pruned
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_source
    from hf_layerprune.strategies.planning import deepstack_warning

    made = PruningPlan.load(plan)
    records = statistics_record(made, statistics) if statistics else {}
    checkpoint = open_source(console, source, **lookup)
    console.say(model_line(checkpoint))
    made = made.for_source(checkpoint.source)
    check_output(output, overwrite=overwrite, source=checkpoint.path)
    if caution := deepstack_warning(made, checkpoint.facts):
        console.note(f"warning: {caution}")
    report = write_pruned(console, checkpoint, made, output, overwrite, writing, records)
    show_next(console, output, source, checkpoint)
    console.result(report)
