"""`hf-layerprune convert`: from a vision-language model and images to a shorter one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.errors import UsageError
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.strategies.options import PlanOptions

if TYPE_CHECKING:
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.probing.probe_set import ProbeSet
    from hf_layerprune.pruner import LayerPruner
    from hf_layerprune.strategies.planning import Request


@click.command(
    short_help="Probe, plan and write a pruned model in one go.",
    epilog=options.examples(
        "hf-layerprune convert mini --method mixed --budget 0.25",
        "hf-layerprune convert Qwen/Qwen3-VL-4B-Instruct --layers 11,17-20 -o ./by-hand",
    ),
)
@click.argument("source")
@options.from_fields(PlanOptions, "planning")
@options.from_fields(ProbeOptions, "probing")
@options.output("the pruned model", "DIR", default="./<name>-<method>-<layers left>L")
@options.from_fields(WriteOptions, "writing")
@click.option("--dry-run", is_flag=True, help="End after the plan; write nothing.")
@options.processor
@options.lookup
@reporting
def convert(
    console: Console,
    source: str,
    planning: PlanOptions,
    probing: ProbeOptions,
    output: Path | None,
    writing: WriteOptions,
    dry_run: bool,
    processor: str | None,
    lookup: options.Lookup,
) -> None:
    """Write a copy of SOURCE with fewer decoder layers: those that change least what passes through them go.

    The result loads with plain transformers. Its folder layerprune/ holds the plan, the statistics it was made from, and a
    manifest that proves every tensor.
    """
    from hf_layerprune.checkpoint.output_place import check_output
    from hf_layerprune.cli.apply import show_next, write_pruned
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import source_name
    from hf_layerprune.data.store import kept_or_said
    from hf_layerprune.pruner import LayerPruner
    from hf_layerprune.strategies.planning import deepstack_warning

    checkpoint, request = _open(console, source, lookup, planning, stream=writing.stream, weights=not dry_run, processor=processor)
    console.say(model_line(checkpoint))
    folder = kept_or_said("statistics", console.note) if request.domains and not probing.no_cache else None
    pruner = LayerPruner(checkpoint, dtype=probing.dtype, statistics_folder=folder)
    probing = replace(probing, local_files_only=lookup.local_files_only)
    probe_set = _probe_set(console, pruner, request, probing)
    left = checkpoint.facts.layers - request.budget.layers
    target = output or Path(f"{source_name(checkpoint.id)}-{request.method}-{left}L")
    if not dry_run:
        check_output(target, overwrite=writing.overwrite, source=checkpoint.path)
    plan = _plan(console, pruner, request, probing, probe_set)
    report: dict[str, Any] = {}
    if dry_run:
        console.say("dry run: nothing was written")
    else:
        report = write_pruned(console, checkpoint, plan, target, writing, pruner.records())
        show_next(console, target, source, checkpoint, plan)
    probed = None
    if plan.statistics and pruner.statistics:
        record, passes = pruner.statistics.record, int(pruner.statistics.samples.sum())
        probed = {"passes": passes, **record.probe_set, "skipped": [*record.skipped], "skipped_count": {**record.skipped_count}}
    caution = deepstack_warning(plan, checkpoint.facts)
    console.result({"plan": plan.to_dict(), "probe": probed, "warnings": [caution] if caution else [], "dry_run": dry_run, **report})


def _open(
    console: Console,
    source: str,
    lookup: options.Lookup,
    planning: PlanOptions,
    *,
    stream: bool,
    weights: bool,
    processor: str | None,
) -> tuple[Checkpoint, Request]:
    """The source and what is asked of it; what cannot be honoured is refused before weights are downloaded.

    stream: leave the weights on the Hub; weights: download them even if the method does not run the model.
    """
    from hf_layerprune.cli.source import open_description, open_source
    from hf_layerprune.strategies.planning import resolve, strategy_of
    from hf_layerprune.strategies.strategy import needed_domains

    strategy, requests = strategy_of(planning), list[Any]()
    if stream and strategy and needed_domains(strategy):
        raise UsageError(
            f"--stream keeps no weights, and method {strategy.name!r} must run the model: probe it, plan, and then `apply --stream`; "
            "or take --layers or --method random."
        )

    def check(facts: Any) -> None:
        requests.append(resolve(facts, planning))

    if stream or weights or (strategy and needed_domains(strategy)):
        checkpoint = open_source(console, source, lookup, check, stream, processor)
    else:
        checkpoint, _ = open_description(console, source, lookup, check)
    return checkpoint, requests[-1] if requests else resolve(checkpoint.facts, planning)


def _probe_set(console: Console, pruner: LayerPruner, request: Request, probing: ProbeOptions) -> ProbeSet | None:
    """The images that the method needs, None for one that runs no model; UsageError for a domain that is missing, or images in vain."""
    given = [name for name in ("math_images", "general_images", "samples", "allow_fewer") if getattr(probing, name)]
    if not request.domains and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a probe, and method {request.method!r} needs none: leave it out.")
    if not request.domains:
        return None
    probe_set = pruner.probe_set(probing, console.note)
    if missing := [domain for domain in request.domains if domain not in probe_set.domains]:
        option = {"math": "--math-images", "nonmath": "--general-images"}[missing[0]]
        raise UsageError(f"the method needs images of the {missing[0]} domain too: add {option}, or choose another --method.")
    return probe_set


def _plan(console: Console, pruner: LayerPruner, request: Request, probing: ProbeOptions, probe_set: ProbeSet | None) -> PruningPlan:
    """Decide, probing first if the method needs it, and show the layer map."""
    from hf_layerprune.cli.plan import show_plan
    from hf_layerprune.cli.probe import measure

    statistics = measure(console, pruner, probe_set, probing) if probe_set else None
    plan = pruner.prune_as(request, statistics)
    show_plan(console, plan, statistics, pruner.facts)
    return plan
