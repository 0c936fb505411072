"""`hf-layerprune evaluate`: how many questions a model answers rightly, and how many fewer than another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting


@click.command(
    short_help="Measure what a model answers rightly, and what pruning cost.",
    epilog=options.examples(
        "hf-layerprune evaluate ./mini-mixed-13L --against mini",
        "hf-layerprune evaluate ./qwen-28L --against Qwen/Qwen3-VL-4B-Instruct --tasks questions.jsonl",
    ),
)
@click.argument("source")
@click.option("--against", metavar="SOURCE", help="Ask another model the same samples and compare: a folder, mini, ID or ID@REVISION.")
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
    """Ask SOURCE held-out questions, greedily, and score its answers; every answer is kept, so one can read what went wrong."""
    from hf_layerprune.cli.asking import ask
    from hf_layerprune.cli.score_table import note_lines, score_lines

    done = ask(console, source, against, evaluating, lookup, output, overwrite)
    for line in (*score_lines(done.report), "", *note_lines(done.report)):
        console.say(line)
    console.say(f"answers {options.quoted(done.folder / 'answers.jsonl')}")
    if done.reused:
        console.say("        stood there already; nothing was changed")
    console.result({"output": str(done.folder), "reused": done.reused, **done.report.to_dict()})
