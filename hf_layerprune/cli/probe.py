"""`hf-layerprune probe`: measure a model, once, for every method and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.probing.options import ProbeOptions


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
@options.probing
@options.lookup
@reporting
def probe(console: Console, source: str, output: Path, overwrite: bool, probing: ProbeOptions, lookup: dict[str, Any]) -> None:
    """Run images and the nine prompts through SOURCE and write what each decoder layer does to them.

    The file serves every method at every budget: `hf-layerprune plan statistics.safetensors` needs neither model nor GPU.
    """
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.cli.journey import open_pruner
    from hf_layerprune.cli.measure import measure
    from hf_layerprune.cli.outputs import check_file, finished_probe

    pruner = open_pruner(console, source, probing, lookup)
    probe_set = pruner.probe_set(probing)
    if finished_probe(output, pruner, probe_set, probing):
        console.say(f"{options.quoted(output)} holds these statistics already; nothing was changed")
        console.result({"output": str(output), "fingerprint": LayerStatistics.load(output).fingerprint, "reused": True})
        return
    check_file(output, overwrite, LayerStatistics.load, "statistics", pruner.checkpoint.path)
    statistics = measure(console, pruner, probe_set, probing)
    statistics.save(output)
    console.say(f"wrote   {options.quoted(output)}")
    method = "mixed" if len(statistics.domains) > 1 else statistics.domains[0]
    console.say(f"next    hf-layerprune plan {options.quoted(output)} --method {method} --budget 0.25 -o plan.json")
    console.result({"output": str(output), "fingerprint": statistics.fingerprint, "reused": False})
