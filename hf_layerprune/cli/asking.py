"""Run an evaluation from the command line: options to values, with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli.console import Console
from hf_layerprune.cli.source import open_source
from hf_layerprune.data.limits import parse_max_bad

if TYPE_CHECKING:
    from hf_layerprune.evaluation.run import Evaluation

RESUME = "what was answered is kept; run the same command again and it goes on from there."


def ask(
    console: Console,
    source: str,
    against: str | None,
    evaluating: Mapping[str, Any],
    lookup: Mapping[str, Any],
    output: Path | None,
    overwrite: bool,
) -> Evaluation:
    """Open the models, ask, and write; what cannot be meant is refused before a download."""
    from hf_layerprune.evaluation.run import RunOptions, default_answers_folder, evaluate_checkpoint
    from hf_layerprune.evaluation.tasks import TaskOptions, check_names

    parse_max_bad(evaluating["max_bad"])
    names = ("samples", "allow_fewer", "scorer", "max_new_tokens", "seed")
    asked = TaskOptions(**{name: evaluating[name] for name in names}, local_files_only=lookup["local_files_only"])
    plain: dict[str, Any] = {"batch": evaluating["batch_size"], "max_bad": evaluating["max_bad"], "overwrite": overwrite}
    RunOptions(**plain)
    checkpoint = open_source(console, source, check=lambda facts: check_names(evaluating["tasks"], facts), **lookup)
    other = None if against is None else open_source(console, against, **{**lookup, "revision": None})
    with console.progress("asking", unit="sample") as bar:

        def progress(done: int, total: int) -> None:
            click.get_current_context().obj.resume = RESUME
            bar.total = total
            bar.update(done - bar.n)

        run = RunOptions(**plain, keep=default_answers_folder(), progress=progress, say=console.note)
        place = {"output": output, "device": evaluating["device"], "dtype": evaluating["dtype"]}
        return evaluate_checkpoint(checkpoint, evaluating["tasks"], against=other, options=asked, run=run, **place)
