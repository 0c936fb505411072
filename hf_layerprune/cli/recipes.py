"""`hf-layerprune recipes`: the fine-tuning recipes and every number in them."""

from __future__ import annotations

from dataclasses import asdict

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="List the healing recipes with every number.",
    epilog=options.examples("hf-layerprune recipes", "hf-layerprune recipes --json"),
)
@reporting
def recipes(console: Console) -> None:
    """List the recipes of `hf-layerprune heal`.

    What a paper leaves open is marked with *. --set changes any number, but for those of the first lines, which are fixed.
    """
    from hf_layerprune.healing.recipes import RECIPES, described

    for recipe in RECIPES.values():
        console.say(f"{recipe.name}   {recipe.paper}")
        console.say(f"  trained on {recipe.data}")
        for name, setting in described(recipe).items():
            mark = "*" if name in recipe.ours else " "
            console.say(f"{mark} {name:<24} {getattr(recipe, name)!s:<10} {setting.help}")
        console.say()
    console.say("* ours: the paper leaves it open")
    console.result({name: asdict(recipe) for name, recipe in RECIPES.items()})
