"""`hf-layerprune strategies`: the ranking methods that are installed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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
    rows = _catalogue()
    for row in rows:
        console.say(f"{row['name']:<17}{row['paper']}" + ("" if row["package"] == "hf-layerprune" else f"  [{row['package']}]"))
        console.say(f"{'':<17}{row['score_meaning']}")
        console.say(f"{'':<17}reads {', '.join(row['needs']) or 'no statistics'}")
        for parameter in row["parameters"]:
            console.say(f"{'':<17}--set {parameter['name']}={parameter['default']}  {parameter['help']}")
        console.say()
    console.result({"strategies": rows})


def _catalogue() -> list[dict[str, Any]]:
    """One entry a strategy, ours and third-party ones, by name."""
    from hf_layerprune.strategies.plugins import known_strategies

    return [_entry(name) for name in known_strategies()]


def _entry(name: str) -> dict[str, Any]:
    from hf_layerprune.strategies.plugins import find_strategy, package_of

    strategy = find_strategy(name)
    return {
        "name": name,
        "package": package_of(name),
        "paper": strategy.paper,
        "score_meaning": strategy.score_meaning,
        "needs": sorted(strategy.needs),
        "parameters": [
            {"name": item.name, "type": str(item.type), "default": item.default, "help": item.metadata.get("help", "")}
            for item in fields(strategy.parameters)
        ],
    }
