"""`hf-layerprune verify`: prove a pruned folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="Prove that a pruned model is what its manifest says.",
    epilog=options.examples(
        "hf-layerprune verify ./mini-mixed-13L",
        "hf-layerprune verify ./mini-mixed-13L --source mini --deep",
    ),
)
@click.argument("folder", type=options.PATH)
@click.option("--source", metavar="SOURCE", help="Also compare every kept tensor with this source, byte for byte.")
@click.option("--deep", is_flag=True, help="Also load it with transformers, which must find every key in its place.")
@options.lookup
@reporting
def verify(console: Console, folder: Path, source: str | None, deep: bool, lookup: dict[str, Any]) -> None:
    """Check every file of FOLDER against its manifest. Exits with 1, a line for each difference, if anything is not as it was."""
    from hf_layerprune.checkpoint.verify import verify as prove
    from hf_layerprune.cli.source import open_source

    result = prove(folder, open_source(console, source, **lookup) if source else None)
    if deep and result.ok:
        from hf_layerprune.models.loading import check_loads

        check_loads(folder)
    for difference in result.differences if not console.json else ():
        click.echo(difference, err=console.quiet)
    against = f", {result.tensors} tensors identical to {source}" if source else f", {result.tensors} tensors"
    loaded = ", loaded by transformers with every key in its place" if deep else ""
    console.say(
        f"verified {options.quoted(folder)}: {result.files} files{against}{loaded}"
        if result.ok
        else f"{len(result.differences)} differences"
    )
    console.result({"ok": result.ok, "differences": list(result.differences), "files": result.files, "tensors": result.tensors})
    if not result.ok:
        raise click.exceptions.Exit(1)
