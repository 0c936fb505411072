"""`hf-layerprune convert`: from a vision-language model and images to a shorter one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.strategies.options import PlanOptions


@click.command(
    short_help="Probe, plan and write a pruned model in one go.",
    epilog=options.examples(
        "hf-layerprune convert mini --method mixed --budget 0.25",
        "hf-layerprune convert Qwen/Qwen3-VL-4B-Instruct --layers 11,17-20 -o ./by-hand",
    ),
)
@click.argument("source")
@options.planning
@options.probing
@options.output("the pruned model", "DIR", default="./<name>-<method>-<layers left>L")
@options.overwrite
@options.writing
@click.option("--dry-run", is_flag=True, help="End after the plan; write nothing.")
@options.lookup
@reporting
def convert(
    console: Console,
    source: str,
    planning: PlanOptions,
    probing: ProbeOptions,
    output: Path | None,
    overwrite: bool,
    writing: dict[str, Any],
    dry_run: bool,
    lookup: dict[str, Any],
) -> None:
    """Write a copy of SOURCE with fewer decoder layers: those that change least what passes through them go.

    The result loads with plain transformers. Its folder layerprune/ holds the plan, the statistics it was made from, and a
    manifest that proves every tensor.
    """
    from hf_layerprune.checkpoint.output_place import check_output
    from hf_layerprune.checkpoint.shard_size import parse_size
    from hf_layerprune.cli.journey import (
        default_output,
        make_plan,
        open_pruner,
        open_streamed_pruner,
        show_next,
        write_pruned,
    )
    from hf_layerprune.cli.measure import probe_report
    from hf_layerprune.strategies.planning import deepstack_warning
    from hf_layerprune.strategies.request import resolve, strategy_of
    from hf_layerprune.strategies.strategy import needed_domains

    parse_size(writing["max_shard_size"])  # refused before anything is measured
    repo = None
    if writing["stream"]:
        pruner, repo = open_streamed_pruner(console, source, lookup, planning)
    else:
        strategy = strategy_of(planning)
        probes = strategy is not None and bool(needed_domains(strategy))
        pruner = open_pruner(console, source, probing, lookup, planning, weights=probes or not dry_run)
    request = resolve(pruner.facts, planning)
    target = output or default_output(pruner, request)
    if not dry_run:
        check_output(target, overwrite=overwrite, source=pruner.checkpoint.path)
    plan = make_plan(console, pruner, request, probing)
    report = write_pruned(console, pruner.checkpoint, plan, target, overwrite, writing, pruner.records(), repo) if not dry_run else {}
    show_next(console, target if not dry_run else None, source, pruner.checkpoint, plan, repo is not None)
    caution = deepstack_warning(plan, pruner.facts)
    probed = probe_report(pruner.statistics) if plan.statistics and pruner.statistics else None
    console.result({"plan": plan.to_dict(), "probe": probed, "warnings": [caution] if caution else [], "dry_run": dry_run, **report})
