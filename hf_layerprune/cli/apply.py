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
        "hf-layerprune apply Qwen/Qwen3-VL-8B-Instruct plan.json -o ./qwen --stream",
    ),
)
@click.argument("source")
@click.argument("plan")
@click.option("--statistics", type=options.PATH, metavar="FILE", help="Put these, which the plan was made from, beside it.")
@options.output("the pruned model", "DIR")
@options.overwrite
@options.writing
@options.lookup
@reporting
def apply(
    console: Console,
    source: str,
    plan: str,
    statistics: Path | None,
    output: Path,
    overwrite: bool,
    writing: dict[str, Any],
    lookup: dict[str, Any],
) -> None:
    """Remove the layers that PLAN drops from SOURCE, which must be the very checkpoint that the plan was made for.

    PLAN is a plan file, or a pruned model: its folder or Hub id. That is then built again from SOURCE, and its weights are
    proved to be the same, byte for byte.
    """
    from hf_layerprune.checkpoint.staging import check_output
    from hf_layerprune.cli.given_plan import as_published, load_plan
    from hf_layerprune.cli.journey import show_next, statistics_record, write_pruned
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_source, open_streamed
    from hf_layerprune.strategies.planning import deepstack_warning

    given = load_plan(console, plan, lookup["local_files_only"])
    writing |= as_published(writing, given)
    records = statistics_record(given.plan, statistics) if statistics else given.records
    opened = open_streamed(console, source, **lookup) if writing["stream"] else (open_source(console, source, **lookup), None)
    checkpoint, repo = opened
    console.say(model_line(checkpoint))
    made = given.plan.for_source(checkpoint.source)
    check_output(output, overwrite=overwrite, source=checkpoint.path)
    if caution := deepstack_warning(made, checkpoint.facts):
        console.note(f"warning: {caution}")
    report = write_pruned(console, checkpoint, made, output, overwrite, writing, records, repo, given.manifest)
    if given.manifest:
        console.say(f"proved  its weight files have the sha256 of those of {given.name}")
    show_next(console, output, source, checkpoint, made, repo is not None)
    console.result({**report, "rebuilt": given.name if given.manifest else None})
