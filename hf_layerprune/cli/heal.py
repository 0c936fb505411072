"""`hf-layerprune heal`: fine-tune a checkpoint by a paper's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="Fine-tune a pruned model by a recipe of a paper.",
    epilog=options.examples(
        "hf-layerprune heal ./mini-mixed-13L --recipe interlace",
        "hf-layerprune heal ./qwen-28L --data math.jsonl,count=9000 --data lmms-lab/LLaVA-OneVision-Data",
    ),
)
@click.argument("source")
@click.option("--recipe", "name", default="domain-aware", show_default=True, help="`hf-layerprune recipes` lists them.")
@options.healing
@options.healing_data
@options.output("the healed model", "DIR", default="./<name>-<recipe>")
@options.overwrite
@options.lookup
@reporting
def heal(
    console: Console,
    source: str,
    name: str,
    healing: dict[str, Any],
    data: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    lookup: dict[str, Any],
) -> None:
    """Fine-tune SOURCE, pruned or dense, and write the healed checkpoint beside it, in the same layout.

    Runs on one CPU or GPU as it is, and on many with `accelerate launch --config_file examples/zero3.yaml -m hf_layerprune heal
    ...`. What ended early goes on when run again.
    """
    from hf_layerprune.cli.healing import run
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_source, source_name
    from hf_layerprune.healing.options import HealOptions

    console = console.of_rank()
    checkpoint = open_source(console, source, **lookup)
    console.say(model_line(checkpoint))
    target = output or Path(f"{source_name(checkpoint.id)}-{name}")
    asked = HealOptions(name, overwrite=overwrite, local_files_only=lookup["local_files_only"], **healing, **data)
    run(console, source, checkpoint, target, asked)
