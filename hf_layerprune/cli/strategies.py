"""`hf-layerprune strategies`: the ranking methods that are installed."""

from __future__ import annotations

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="List the ranking methods and their parameters.",
    epilog=options.examples("hf-layerprune strategies", "hf-layerprune strategies --json"),
)
@reporting
def strategies(console: Console) -> None:
    """List every method that --method takes: where it comes from, what it reads of the statistics, and its parameters."""
    from hf_layerprune.cli.catalogue import catalogue

    rows = catalogue()
    for row in rows:
        console.say(f"{row['name']:<17}{row['paper']}" + ("" if row["package"] == "hf-layerprune" else f"  [{row['package']}]"))
        console.say(f"{'':<17}{row['score_meaning']}")
        console.say(f"{'':<17}reads {', '.join(row['needs']) or 'no statistics'}")
        for parameter in row["parameters"]:
            console.say(f"{'':<17}--set {parameter['name']}={parameter['default']}  {parameter['help']}")
        console.say()
    console.result({"strategies": rows})
