"""`hf-layerprune verify`: prove a pruned folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.cli.source import on_the_hub
from hf_layerprune.errors import UsageError

if TYPE_CHECKING:
    from hf_layerprune.checkpoint.verify import Verification


@click.command(
    short_help="Prove that a pruned model is what its manifest says.",
    epilog=options.examples(
        "hf-layerprune verify ./mini-mixed-13L",
        "hf-layerprune verify ./mini-mixed-13L --source mini --deep",
    ),
)
@click.argument("model")
@click.option("--source", metavar="SOURCE", help="Also compare every kept tensor with this source, byte for byte.")
@click.option("--deep", is_flag=True, help="Also load it with transformers, which must find every key in its place.")
@options.lookup
@reporting
def verify(console: Console, model: str, source: str | None, deep: bool, lookup: options.Lookup) -> None:
    """Check every file of MODEL against its manifest. Exits with 1, a line for each difference, if anything is not as it was.

    MODEL is a pruned folder, or a Hub id, of which no weights are downloaded: the Hub lists their sha256.
    """
    result = _remote(console, model, source, deep, lookup) if on_the_hub(model) else _local(console, Path(model), source, deep, lookup)
    for difference in result.differences if not console.json else ():
        click.echo(difference, err=console.quiet)
    healed = f" and {result.changed} changed by healing" if result.changed else ""
    against = f", {result.tensors - result.changed} tensors identical to {source}{healed}" if source else f", {result.tensors} tensors"
    loaded = ", loaded by transformers with every key in its place" if deep else ""
    console.say(
        f"verified {options.quoted(model)}: {result.files} files{against}{loaded}"
        if result.ok
        else f"{len(result.differences)} differences"
    )
    console.result(
        {
            "ok": result.ok,
            "differences": list(result.differences),
            "files": result.files,
            "tensors": result.tensors,
            "changed": result.changed,
        }
    )
    if not result.ok:
        raise click.exceptions.Exit(1)


def _local(console: Console, folder: Path, source: str | None, deep: bool, lookup: options.Lookup) -> Verification:
    from hf_layerprune.checkpoint.verify import verify as prove
    from hf_layerprune.cli.source import open_source

    result = prove(folder, open_source(console, source, lookup) if source else None)
    if deep and result.ok:
        from hf_layerprune.models.loading import check_loads

        check_loads(folder)
    return result


def _remote(console: Console, id: str, source: str | None, deep: bool, lookup: options.Lookup) -> Verification:
    from hf_layerprune.checkpoint.verify import verify_remote
    from hf_layerprune.cli.source import at_revision, or_suggested

    id, lookup = at_revision(id, lookup)
    if needs := "--source" if source else "--deep" if deep else None:
        again = f"build it again, which proves it (hf-layerprune apply SOURCE {id})"
        raise UsageError(
            f"{needs} reads the weights, and {id} is on the Hub: download it first (hf download {id} --local-dir DIR), or {again}."
        )
    if lookup.local_files_only:
        raise UsageError(f"{id} is compared as it is on the Hub: leave out --local-files-only, or pass a folder.")
    return or_suggested(console, id, lookup.yes, lambda name: verify_remote(name, revision=lookup.revision))
