"""The steps that `convert` takes in one go and other commands take alone: open, probe, plan, write, each with its lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import STATISTICS
from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.artifacts.layer_map import removal_lines
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.shard_size import parse_size
from hf_layerprune.checkpoint.stream import ShardStream
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.measure import measure
from hf_layerprune.cli.options import quoted
from hf_layerprune.cli.report import map_lines, model_line, size
from hf_layerprune.cli.source import named_again, open_description, open_source, open_streamed, source_name
from hf_layerprune.errors import ArtifactError, UsageError
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.pruner import LayerPruner
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import deepstack_warning
from hf_layerprune.strategies.request import Request, resolve, strategy_of
from hf_layerprune.strategies.strategy import needed_domains

if TYPE_CHECKING:
    from hf_layerprune.artifacts.manifest import Manifest
    from hf_layerprune.artifacts.model_facts import ModelFacts
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.hub.listing import RemoteRepo


def open_pruner(
    console: Console,
    source: str,
    probing: ProbeOptions,
    lookup: Mapping[str, Any],
    planning: PlanOptions | None = None,
    weights: bool = True,
) -> LayerPruner:
    """The source, indexed, and where its statistics are kept; options that cannot be honoured are refused before a download.

    weights: download those of a Hub id; without, only a plan can be made.
    """
    options = {"check": lambda facts: planning and resolve(facts, planning), **lookup}
    checkpoint = open_source(console, source, **options) if weights else open_description(console, source, **options)[0]
    console.say(model_line(checkpoint))
    folder = None if probing.no_cache else kept_folder("statistics")
    return LayerPruner(checkpoint, dtype=probing.dtype, statistics_folder=folder)


def open_streamed_pruner(
    console: Console, source: str, lookup: Mapping[str, Any], planning: PlanOptions
) -> tuple[LayerPruner, RemoteRepo | None]:
    """As `open_pruner`, the weights left on the Hub, and the repository to stream them from."""
    strategy = strategy_of(planning)
    if strategy is not None and needed_domains(strategy):
        raise UsageError(
            f"--stream keeps no weights, and method {strategy.name!r} must run the model: probe it, plan, and then `apply --stream`; "
            "or take --layers or --method random."
        )
    checkpoint, repo = open_streamed(console, source, check=lambda facts: resolve(facts, planning), **lookup)
    console.say(model_line(checkpoint))
    return LayerPruner(checkpoint, statistics_folder=None), repo


def default_output(pruner: LayerPruner, request: Request) -> Path:
    """./<name>-<method>-<layers left>L, known before anything is measured."""
    return Path(f"{source_name(pruner.facts.source.id)}-{request.method}-{pruner.facts.layers - request.budget.layers}L")


def make_plan(console: Console, pruner: LayerPruner, request: Request, probing: ProbeOptions) -> PruningPlan:
    """Decide, probing first if the method needs it, and show the layer map."""
    statistics = None
    if request.domains:
        statistics = measure(console, pruner, pruner.probe_set(probing), probing, request.domains)
    elif given := [name for name in ("math_images", "general_images", "samples", "allow_fewer") if getattr(probing, name)]:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a probe, and method {request.method!r} needs none: leave it out.")
    plan = pruner.prune_as(request, statistics)
    show_plan(console, plan, statistics, pruner.facts)
    return plan


def show_plan(console: Console, plan: PruningPlan, statistics: LayerStatistics | None, facts: ModelFacts) -> None:
    """The layer map, what goes, and what to be careful about."""
    for line in ("", *map_lines(plan, statistics), "", *removal_lines(plan)):
        console.say(line)
    if caution := deepstack_warning(plan, facts):
        console.note(f"warning: {caution}")


def write_pruned(
    console: Console,
    checkpoint: Checkpoint,
    plan: PruningPlan,
    target: Path,
    overwrite: bool,
    writing: Mapping[str, Any],
    records: Mapping[str, bytes],
    repo: RemoteRepo | None = None,
    expected: Manifest | None = None,
) -> dict[str, Any]:
    """Write and prove the pruned checkpoint, say what that came to, and return it for `--json`.

    repo: where to stream the weights from; expected: the manifest whose weight files must come out.
    """
    shard_size = parse_size(writing["max_shard_size"])
    written = checkpoint.size(plan.drop)[1]  # of tensors, as `total_bytes` is
    with console.progress("writing", unit="B", unit_scale=True, total=written) as bar:
        manifest = rewrite(
            checkpoint,
            plan,
            target,
            overwrite=overwrite,
            max_shard_size=shard_size,
            verify=writing["verify"],
            records=records,
            progress=bar.update,
            stream=ShardStream(repo, checkpoint.shards, verify=writing["verify"]) if repo else None,
            expected=expected,
        )
    proof = f"verified: {len(manifest.tensors)} tensors identical to their source" if writing["verify"] else "not verified"
    console.say(f"wrote   {quoted(target)}   {size(checkpoint.total_bytes)} -> {size(written)}, {proof}")
    return {
        "output": str(target),
        "bytes": written,
        "source_bytes": checkpoint.total_bytes,
        "tensors": len(manifest.tensors),
        "verified": writing["verify"],
    }


def statistics_record(plan: PruningPlan, path: Path) -> dict[str, bytes]:
    """A statistics file as a record of a pruned folder; ArtifactError if the plan was made from others."""
    statistics = LayerStatistics.load(path)
    if statistics.fingerprint != plan.statistics:
        raise ArtifactError(f"{path}: the plan was not made from these statistics. Pass those, or leave out --statistics.")
    return {STATISTICS: statistics.content}


def show_next(
    console: Console, target: Path | None, source: str, checkpoint: Checkpoint, plan: PruningPlan, streamed: bool = False
) -> None:
    """The command that makes sense now; after streaming there is no source on this disk to compare with."""
    if target is None:
        console.say("dry run: nothing was written")
        return
    against = "" if streamed else f" --against {named_again(source, checkpoint.source)}"  # a streamed source is not on this disk
    console.say(f"next    hf-layerprune evaluate {quoted(target)}{against}")
    console.say(f"        hf-layerprune heal {quoted(target)} --recipe {'interlace' if plan.tune else 'domain-aware'}")
