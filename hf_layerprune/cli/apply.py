"""`hf-layerprune apply`: carry a plan out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting

if TYPE_CHECKING:
    from hf_layerprune.cli.given_plan import GivenPlan


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

    PLAN is a plan file, or a pruned model: its folder, its Hub id or ID@REVISION. That is then built again from SOURCE, and its
    weights are proved to be the same, byte for byte; of a healed model its pruned stage.
    """
    from hf_layerprune.checkpoint.output_place import check_output
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
    proved = _proved(console, given, output)
    show_next(console, output, source, checkpoint, made, repo is not None)
    console.result({**report, "rebuilt": given.name if proved else None})


def _proved(console: Console, given: GivenPlan, output: Path) -> bool:
    """Say whether the output is the model, or the stage of it, that the plan was taken from; a plan alone says nothing of that."""
    from hf_layerprune.checkpoint.index import Checkpoint

    if given.manifest and given.compared:  # both with the manifest, before the output appeared
        console.say(f"proved  its weight files have the sha256 of those of {given.name}")
        return True
    if given.manifest:
        console.note(
            f"note: not proved: its weight files have the sha256 of those of {given.name} as its manifest states; "
            "the Hub could not be asked what it holds"
        )
        return False
    if given.healed is None:
        return False
    found = Checkpoint.open(output, output.name).source.fingerprint
    if found == given.healed:
        console.say(f"proved  it has the fingerprint of what was healed into {given.name}")
        return True
    console.note(
        f"note: not proved: what was healed has the fingerprint {given.healed[:12]}, this {found[:12]}, as a source by another name gives"
    )
    return False
