"""What a command says: lines for people or one JSON object on stdout; progress and notes on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from hf_layerprune.errors import UsageError


@dataclass
class Invocation:
    """What `main` must know of a running command when it fails."""

    debug: bool = False
    json: bool = False
    resume: str = "nothing was written; run the same command again."


def is_first_process() -> bool:
    """Whether this is the first, or the only one, of the processes that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Console:
    """json: one JSON object instead of lines; quiet: neither lines nor progress."""

    json: bool
    quiet: bool

    def of_rank(self) -> Console:
        """Itself for the first of the processes that a launcher started, and a silent one for the others."""
        return self if is_first_process() else Console(json=False, quiet=True)

    def say(self, line: str = "") -> None:
        """A line of the report, for people."""
        if not self.json and not self.quiet:
            click.echo(line)

    def note(self, line: str) -> None:
        """A line beside the report, on stderr."""
        if not self.quiet:
            click.echo(line, err=True)

    def result(self, value: dict[str, Any]) -> None:
        """The report for machines."""
        if self.json:
            click.echo(json.dumps(value))

    @contextmanager
    def progress(self, description: str, *, resume: str | None = None, **options: Any) -> Iterator[tuple[Callable[[int, int], None], Any]]:
        """A tqdm bar on stderr that disappears at the end, only on a terminal; and what to call with what is done and in all.

        resume: what an interruption says once something was done.
        """
        from huggingface_hub import utils

        tqdm: Any = utils.tqdm  # type: ignore[attr-defined]
        with tqdm(desc=description, leave=False, disable=True if self.quiet else None, **options) as bar:

            def progress(done: int, total: int) -> None:
                if resume and done:
                    click.get_current_context().obj.resume = resume
                bar.total = total
                bar.update(done - bar.n)

            yield progress, bar


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json`, `-q` and `--debug`, and a Console as its first argument; UsageError becomes click's."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines for people.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def wrapped(as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
        ctx = click.get_current_context()
        ctx.obj.debug, ctx.obj.json = debug, as_json and is_first_process()
        try:
            command(Console(as_json, quiet), **arguments)
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error

    return wrapped
