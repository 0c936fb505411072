"""`hf-layerprune evaluate`: the accuracy of a model, alone or compared with another one on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="Measure a model's accuracy, and what pruning cost.",
    epilog=options.examples(
        "hf-layerprune evaluate ./mini-mixed-13L --against mini",
        "hf-layerprune evaluate ./qwen-28L --against Qwen/Qwen3-VL-4B-Instruct --tasks questions.jsonl",
    ),
)
@click.argument("source")
@click.option("--against", metavar="SOURCE", help="Compare with another model on the same samples: a folder, mini, ID or ID@REVISION.")
@options.evaluating
@options.output("eval.json and the answers", "DIR", default="layerprune/ in a folder that we made, else ./<name>-eval")
@options.overwrite
@options.lookup
@reporting
def evaluate(
    console: Console,
    source: str,
    against: str | None,
    evaluating: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    lookup: dict[str, Any],
) -> None:
    """Generate greedy answers to held-out questions with SOURCE and score them; every answer is kept, to read what went wrong."""
    from hf_layerprune.cli.asking import ask
    from hf_layerprune.cli.score_table import note_lines, score_lines

    done = ask(console, source, against, evaluating, lookup, output, overwrite)
    for line in (*score_lines(done.report), "", *note_lines(done.report)):
        console.say(line)
    console.say(f"answers {options.quoted(done.folder / 'answers.jsonl')}")
    if done.reused:
        console.say("        were there already; nothing was changed")
    console.result({"output": str(done.folder), "reused": done.reused, **done.report.to_dict()})
