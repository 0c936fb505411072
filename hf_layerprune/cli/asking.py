"""Run an evaluation from the command line: options to values, with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.source import at_revision, open_source
from hf_layerprune.data.limits import parse_max_bad
from hf_layerprune.errors import UsageError, shown

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
    from hf_layerprune.evaluation.run import RunOptions, evaluate_checkpoint
    from hf_layerprune.evaluation.tasks import TaskOptions, check_names

    parse_max_bad(evaluating["max_bad"])
    names = ("samples", "allow_fewer", "scorer", "max_new_tokens", "seed")
    asked = TaskOptions(**{name: evaluating[name] for name in names}, local_files_only=lookup["local_files_only"])
    plain: dict[str, Any] = {"batch": evaluating["batch_size"], "max_bad": evaluating["max_bad"], "overwrite": overwrite}
    RunOptions(**plain)
    (model, revision), other_model = at_revision(source), None if against is None else at_revision(against)
    if revision and lookup["revision"]:
        raise UsageError(f"{shown(source)} names a revision, and --revision names one too: give one of them.")
    place = {**lookup, "revision": revision or lookup["revision"]}
    checkpoint = open_source(console, model, check=lambda facts: check_names(evaluating["tasks"], facts), **place)
    other = None if other_model is None else open_source(console, other_model[0], **{**lookup, "revision": other_model[1]})
    with console.progress("asking", unit="sample") as bar:

        def progress(done: int, total: int) -> None:
            click.get_current_context().obj.resume = RESUME
            bar.total = total
            bar.update(done - bar.n)

        run = RunOptions(**plain, keep=kept_folder("answers"), progress=progress, say=console.note)
        how = {"output": output, "device": evaluating["device"], "dtype": evaluating["dtype"]}
        return evaluate_checkpoint(checkpoint, evaluating["tasks"], against=other, options=asked, run=run, **how)
