"""`hf-layerprune evaluate`: the accuracy of a model, alone or compared with another one on the same samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.evaluation.options import EvaluateOptions

RESUME = "what was answered is kept; run the same command again and it goes on from there."


@click.command(
    short_help="Measure a model's accuracy, and what pruning cost.",
    epilog=options.examples(
        "hf-layerprune evaluate ./mini-mixed-13L --against mini",
        "hf-layerprune evaluate ./qwen-28L --against Qwen/Qwen3-VL-4B-Instruct --tasks questions.jsonl",
    ),
)
@click.argument("source")
@click.option("--against", metavar="SOURCE", help="Compare with another model on the same samples: a folder, mini, ID or ID@REVISION.")
@options.from_fields(EvaluateOptions, "evaluating")
@options.output("eval.json and the answers", "DIR", default="layerprune/ in a folder that we made, else ./<name>-eval")
@options.processor
@options.lookup
@reporting
def evaluate(
    console: Console,
    source: str,
    against: str | None,
    evaluating: EvaluateOptions,
    output: Path | None,
    processor: str | None,
    lookup: options.Lookup,
) -> None:
    """Generate greedy answers to held-out questions with SOURCE and score them; every answer is kept, to read what went wrong."""
    from hf_layerprune.artifacts.score_table import note_lines, score_lines
    from hf_layerprune.cli.source import open_source
    from hf_layerprune.data.store import kept_or_said
    from hf_layerprune.evaluation.run import evaluate as run
    from hf_layerprune.evaluation.tasks import check_names

    checkpoint = open_source(console, source, lookup, check=lambda facts: check_names(evaluating.names, facts), processor=processor)
    compared = open_source(console, against, replace(lookup, revision=None)) if against is not None else None
    asked = replace(evaluating, local_files_only=lookup.local_files_only)
    with console.progress("evaluating", unit="sample", resume=RESUME if kept_or_said("answers") else None) as (progress, _):
        done = run(checkpoint, asked, against=compared, output=output, progress=progress, say=console.note)
    for line in (*score_lines(done.report), "", *note_lines(done.report, "--max-new-tokens")):
        console.say(line)
    console.say(f"answers {options.quoted(done.folder / 'answers.jsonl')}")
    if done.reused:
        console.say("        were there already; nothing was changed")
    console.result({"output": str(done.folder), "reused": done.reused, **done.report.to_dict()})
