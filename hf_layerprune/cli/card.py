"""`hf-layerprune card`: write the model card of a folder that hf-layerprune made."""

from __future__ import annotations

from pathlib import Path

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.publishing.options import CardOptions


@click.command(
    short_help="Write the model card, with its figures, from the records.",
    epilog=options.examples(
        "hf-layerprune card ./mini-mixed-13L",
        "hf-layerprune card ./qwen-28L-healed --pruned ./qwen-28L --control ./qwen-healed",
    ),
)
@click.argument("folder", metavar="DIR", type=options.PATH)
@options.output("the card, its figures in layerprune/ beside it", "FILE", default="README.md in DIR")
@options.from_fields(CardOptions, "asked")
@reporting
def card(console: Console, folder: Path, output: Path | None, asked: CardOptions) -> None:
    """Say in the README.md of DIR what was removed, how, what it cost, how to use it and how to reproduce it.

    Every number comes from a record in DIR/layerprune; what was not measured is said to be. In a card that is there, only the
    parts between hf-layerprune's markers and the metadata that it sets are written anew. DIR may be a copy that
    `hf download --local-dir` made; the Hub's cache is left as it is, and needs -o.
    """
    from hf_layerprune.publishing.card import figures_note, write_card
    from hf_layerprune.publishing.metadata import metadata
    from hf_layerprune.publishing.records import card_facts

    facts = card_facts(folder, asked)
    found = metadata(facts)
    path = write_card(folder, output, asked)
    console.say(f"wrote   {options.quoted(path)}")
    if "license" not in found:
        console.note("note: the records name no license; say which it is with --license before publishing.")
    if note := figures_note(folder, facts):
        console.note(f"note: {note}")
    console.result({"card": str(path), "metadata": found})
