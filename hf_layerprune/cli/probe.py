"""`hf-layerprune probe`: measure a model, once, for every method and budget."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hf_layerprune.artifacts.display import by_reason
from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.errors import ArtifactError, DataError
from hf_layerprune.probing.options import ProbeOptions

if TYPE_CHECKING:
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.probing.probe_set import ProbeSet
    from hf_layerprune.pruner import LayerPruner

RESUME = "what was probed is kept; run the same command again and it goes on from there."


@click.command(
    short_help="Measure how much each layer changes its input.",
    epilog=options.examples(
        "hf-layerprune probe mini -o statistics.safetensors",
        "hf-layerprune probe ./qwen --math-images sums/ --general-images photos.jsonl -o qwen.safetensors",
    ),
)
@click.argument("source")
@options.output("the statistics", "FILE")
@options.overwrite
@options.from_fields(ProbeOptions, "probing")
@options.processor
@options.lookup
@reporting
def probe(
    console: Console,
    source: str,
    output: Path,
    overwrite: bool,
    probing: ProbeOptions,
    processor: str | None,
    lookup: options.Lookup,
) -> None:
    """Run images and the nine prompts through SOURCE and write what each decoder layer does to them.

    The file serves every method at every budget: `hf-layerprune plan statistics.safetensors` needs neither model nor GPU.
    """
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.checkpoint.output_place import check_file, parents_made
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_source
    from hf_layerprune.data.store import kept_or_said
    from hf_layerprune.pruner import LayerPruner

    checkpoint = open_source(console, source, lookup, processor=processor)
    console.say(model_line(checkpoint))
    folder = None if probing.no_cache else kept_or_said("statistics", console.note)
    pruner = LayerPruner(checkpoint, dtype=probing.dtype, statistics_folder=folder)
    probing = replace(probing, local_files_only=lookup.local_files_only)
    probe_set = pruner.probe_set(probing, console.note)
    if _finished(output, pruner, probe_set, probing):
        console.say(f"{options.quoted(output)} holds these statistics already; nothing was changed")
        console.result({"output": str(output), "fingerprint": LayerStatistics.load(output).fingerprint, "reused": True})
        return
    check_file(output, overwrite, LayerStatistics.load, "statistics", checkpoint.path)
    statistics = measure(console, pruner, probe_set, probing)
    with parents_made(output):
        statistics.save(output)
    console.say(f"wrote   {options.quoted(output)}")
    method = "mixed" if len(statistics.domains) > 1 else statistics.domains[0]
    console.say(f"next    hf-layerprune plan {options.quoted(output)} --method {method} --budget 0.25 -o plan.json")
    console.result({"output": str(output), "fingerprint": statistics.fingerprint, "reused": False})


def measure(console: Console, pruner: LayerPruner, probe_set: ProbeSet, probing: ProbeOptions) -> LayerStatistics:
    """Probe, or take the statistics of an earlier run, and say which."""
    from hf_layerprune.data.store import kept_or_said

    for name, images in probe_set.sources.items():
        if probing.samples and len(images) < probing.samples:
            console.note(f"note: {len(images)} images of the {name} domain, fewer than --samples {probing.samples}")
    resume = RESUME if not probing.no_cache and kept_or_said("statistics") else None
    started = time.monotonic()
    with console.progress("probing", unit="image", resume=resume) as (progress, bar):
        statistics = pruner.probe_over(probe_set, probing, progress=progress, say=console.note)
    counts, skipped = [], statistics.record.skipped_count
    for name, domain in statistics.record.probe_set["domains"].items():
        left = domain["images"] - skipped.get(name, 0)
        counts.append(f"{left} of {domain['images']} {name}" if skipped.get(name) else f"{left} {name}")
    passes = f"{int(statistics.samples.sum())} passes over {' + '.join(counts)} images"
    ran = f"probed {passes} in {time.monotonic() - started:.0f} s"
    console.say(ran if bar.total else f"reused an earlier probe: {passes}")
    origins = dict.fromkeys(f"{domain['origin']}" for domain in statistics.record.probe_set["domains"].values())
    console.say(f"images {'; '.join(origins)}")
    if bad := sum(skipped.values()):
        for line in (f"skipped {bad} images:", *(f"  {line}" for line in by_reason(statistics.record.skipped)[:5])):
            console.say(line)
    return statistics


def _finished(output: Path, pruner: LayerPruner, probe_set: ProbeSet, probing: ProbeOptions) -> bool:
    """Whether a file holds the statistics of these images that the options ask for."""
    from hf_layerprune.artifacts.statistics import LayerStatistics

    if not os.path.isfile(output):
        return False
    try:
        found = LayerStatistics.load(output)
        probe_set.check_unusable(found.record.skipped_count, found.record.skipped, probing.tolerance)
    except (ArtifactError, DataError):
        return False
    settings = pruner.probe_settings(probing)
    return (
        found.model.source.fingerprint == pruner.facts.source.fingerprint
        and found.record.probe_set.get("fingerprint") == probe_set.fingerprint
        and all(found.record.settings.get(name) == value for name, value in settings.items())
    )
