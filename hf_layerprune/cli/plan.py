"""`hf-layerprune plan`: choose layers from statistics, without the model."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.errors import ArtifactError, StrategyError, shown
from hf_layerprune.registry import did_you_mean
from hf_layerprune.strategies.options import PlanOptions

if TYPE_CHECKING:
    from hf_layerprune.artifacts.model_facts import ModelFacts
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import LayerStatistics

SUFFIX = ".safetensors"
MEASURED = f"statistics{SUFFIX}"
MAX_BESIDE = 1000  # files that a mistyped name is compared with


@click.command(
    short_help="Choose layers from statistics, without the model.",
    epilog=options.examples(
        "hf-layerprune plan statistics.safetensors --method interlace --budget 25% -o plan.json",
        "hf-layerprune plan mini --method random --set seed=7 --num-layers 4 -o plan.json",
    ),
)
@click.argument("origin", metavar="FROM")
@options.from_fields(PlanOptions, "planning")
@options.output("the plan", "FILE")
@options.overwrite
@options.lookup
@reporting
def plan(console: Console, origin: str, planning: PlanOptions, output: Path, overwrite: bool, lookup: options.Lookup) -> None:
    """Write the plan of which layers to remove. FROM is a statistics file, a pruned folder or Hub id that has one, or a model.

    Statistics beside a pruned model are those of the model it was pruned from, and so is the plan. A model without statistics
    gets a plan by methods that need none. Of a Hub id no weights are downloaded.
    """
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.checkpoint.output_place import check_file, parents_made
    from hf_layerprune.cli.source import pinned
    from hf_layerprune.strategies.planning import make_plan, resolve

    facts, statistics = _measured(console, origin, lookup)
    request = resolve(facts, planning)
    if request.domains and statistics is None:
        raise StrategyError(
            f"method {request.method!r} needs statistics of {facts.source.id}. Measure them: hf-layerprune probe {options.quoted(origin)} "
            f"-o {MEASURED}; then plan from that file: hf-layerprune plan {MEASURED} -o {options.quoted(output)}"
        )
    made = make_plan(facts, request, statistics)
    check_file(output, overwrite, PruningPlan.load, "plan", Path(origin) if os.path.isdir(origin) else None)
    show_plan(console, made, statistics, facts)
    with parents_made(output):
        made.save(output)
    # Statistics know a folder by its last name alone.
    folder = "SOURCE" if statistics else options.quoted(origin) if Path(origin).is_dir() else pinned(facts.source)
    source = pinned(facts.source) if facts.source.commit or facts.source.id == "mini" else folder
    console.say(f"wrote   {options.quoted(output)}, a plan for {facts.source.id}")
    console.say(f"next    hf-layerprune apply {source} {options.quoted(output)} -o DIR")
    console.result({"output": str(output), "plan": made.to_dict()})


def show_plan(console: Console, plan: PruningPlan, statistics: LayerStatistics | None, facts: ModelFacts) -> None:
    """The layer map, what goes, and what to be careful about."""
    from hf_layerprune.artifacts.plan import removal_lines
    from hf_layerprune.cli.report import map_lines
    from hf_layerprune.strategies.planning import deepstack_warning

    for line in ("", *map_lines(plan, statistics), "", *removal_lines(plan)):
        console.say(line)
    if caution := deepstack_warning(plan, facts):
        console.note(f"warning: {caution}")


def _measured(console: Console, origin: str, lookup: options.Lookup) -> tuple[ModelFacts, LayerStatistics | None]:
    """The model that is to be pruned, and its statistics if there are any."""
    from hf_layerprune.artifacts.folder import STATISTICS
    from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES, LayerStatistics
    from hf_layerprune.checkpoint.source import published_record
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_description
    from hf_layerprune.families.facts import LINEAGE
    from hf_layerprune.families.family import find

    path, pruned_from = Path(origin) if os.path.isfile(origin) else None, None
    if path is None:
        _check_spelling(origin)
        checkpoint, _ = open_description(console, origin, lookup)
        if pruned_from := find(checkpoint.config, f"{LINEAGE}.source.fingerprint"):
            path = published_record(checkpoint, STATISTICS, MAX_STATISTICS_BYTES, local_files_only=lookup.local_files_only)
        if path is None:
            console.say(model_line(checkpoint))
            return checkpoint.facts, None
    statistics = LayerStatistics.load(path)
    facts = statistics.model
    if pruned_from not in (None, facts.source.fingerprint):
        raise ArtifactError(
            f"{path}: statistics of {facts.source.id} with fingerprint {facts.source.fingerprint[:12]}, but the model beside them was "
            f"pruned from {shown(pruned_from)[1:13]}. Pass the statistics file itself if you want a plan for {facts.source.id}."
        )
    console.say(f"statistics of {facts.source.id} · {facts.family} · {facts.layers} decoder layers x {facts.hidden_size}")
    return facts, statistics


def _check_spelling(origin: str) -> None:
    """ArtifactError where a name that can only be a statistics file's is missing, with the nearest file, or those beside it."""
    path = Path(origin)
    if path.suffix != SUFFIX or os.path.lexists(path):
        return
    beside = sorted(map(str, islice(path.parent.glob(f"*{SUFFIX}"), MAX_BESIDE)))
    hint = did_you_mean(origin, beside, options.quoted)
    if not hint and beside:
        hint = f"Beside it: {', '.join(map(options.quoted, beside[:5]))}."
    remedy = f"hf-layerprune probe SOURCE -o {options.quoted(origin)} makes it."
    raise ArtifactError(f"{origin}: there is no statistics file of that name. {hint.strip() or remedy}")
