"""Run a probe from the command line: with a progress bar, a line on what was done, and statistics kept between runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli.console import Console
from hf_layerprune.errors import UsageError

if TYPE_CHECKING:
    from hf_layerprune.artifacts.prompts import Domain
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.probing.options import ProbeOptions
    from hf_layerprune.probing.probe_set import ProbeSet
    from hf_layerprune.pruner import LayerPruner


def measure(
    console: Console, pruner: LayerPruner, probe_set: ProbeSet, options: ProbeOptions, domains: Sequence[Domain] = ()
) -> LayerStatistics:
    """Probe, or take the statistics of an earlier run, and say which. `domains`: those that the images must cover."""
    if missing := [domain for domain in domains if domain not in probe_set.domains]:
        option = {"math": "--math-images", "nonmath": "--general-images"}[missing[0]]
        raise UsageError(f"the method needs images of the {missing[0]} domain too: add {option}, or choose another --method.")
    for name, images in probe_set.sources.items():
        if options.samples and len(images) < options.samples:
            console.note(f"note: {len(images)} images of the {name} domain, fewer than --samples {options.samples}")
    if not options.no_cache:
        click.get_current_context().obj.resume = "what was probed is kept; run the same command again and it goes on from there."
    started, ran = time.monotonic(), False
    with console.progress("probing", unit="image") as bar:

        def progress(done: int, total: int) -> None:
            nonlocal ran
            ran, bar.total = True, total
            bar.update(done - bar.n)

        statistics = pruner.probe_over(probe_set, options, progress=progress, say=console.note)
    for line in _probe_lines(statistics, time.monotonic() - started if ran else None):
        console.say(line)
    return statistics


def probe_report(statistics: LayerStatistics) -> dict[str, Any]:
    """What `--json` says of a probe."""
    record = statistics.record
    passes = int(statistics.samples.sum())
    return {"passes": passes, **record.probe_set, "skipped": list(record.skipped), "skipped_count": dict(record.skipped_count)}


def _probe_lines(statistics: LayerStatistics, seconds: float | None) -> list[str]:
    domains = statistics.record.probe_set["domains"]
    origins = "; ".join(dict.fromkeys(f"{domain['origin']}" for domain in domains.values()))
    skipped = statistics.record.skipped_count
    counts = {name: f"{domain['images'] - skipped[name]} of {domain['images']}" for name, domain in domains.items() if skipped.get(name)}
    images = " + ".join(f"{counts.get(name, domain['images'])} {name}" for name, domain in domains.items())
    passes = f"{int(statistics.samples.sum())} passes over {images} images"
    lines = [f"probed {passes} in {seconds:.0f} s" if seconds is not None else f"reused an earlier probe: {passes}", f"images {origins}"]
    if bad := sum(skipped.values()):
        lines += [f"skipped {bad} images:", *(f"  {reason}" for reason in statistics.record.skipped[:5])]
    return lines
