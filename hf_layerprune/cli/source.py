"""Find the source that a person named; where a nearly right id exists, ask for it or take it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hf_layerprune.artifacts.model_facts import hub_name
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.options import Lookup, quoted
from hf_layerprune.errors import SourceError

if TYPE_CHECKING:
    from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.source import Reading

Found = TypeVar("Found")
Check = Callable[["ModelFacts"], object]


def open_source(
    console: Console, source: str, lookup: Lookup, check: Check = lambda facts: None, stream: bool = False, processor: str | None = None
) -> Checkpoint:
    """The indexed checkpoint of a folder, `mini` or a Hub id.

    check: as in `checkpoint.source.resolve`; stream: leave the weights there; processor: the model to take what it lacks from.
    """
    from hf_layerprune.checkpoint.source import Place, open_to_stream, resolve

    source, lookup = at_revision(source, lookup)
    place = Place(lookup.revision, local_files_only=lookup.local_files_only)

    def opened(name: str) -> Checkpoint:
        if stream:
            return open_to_stream(name, place, check=check)
        return resolve(name, place, check=check).open()

    checkpoint = _noted(console, or_suggested(console, source, lookup.yes, opened))
    if checkpoint.repo:
        click.get_current_context().obj.resume = "finished shards are kept; run the same command again and it goes on from there."
    elif stream:
        console.note(f"note: the weights of {checkpoint.id} are in the cache: they are read there")
    if processor is not None:
        from hf_layerprune.checkpoint.processor_files import borrowing

        checkpoint = borrowing(checkpoint, processor, Place(local_files_only=lookup.local_files_only))
        console.note(f"note: {', '.join(map(str, checkpoint.borrowed))} from {checkpoint.lender}")
    return checkpoint


def open_description(console: Console, source: str, lookup: Lookup, check: Check = lambda facts: None) -> tuple[Checkpoint, Reading | None]:
    """As `open_source`, of a Hub id without its weights; and what was read over the network, None if nothing was."""
    from hf_layerprune.checkpoint.source import Place, open_without_weights

    source, lookup = at_revision(source, lookup)
    place = Place(lookup.revision, local_files_only=lookup.local_files_only)
    checkpoint, reading = or_suggested(console, source, lookup.yes, lambda name: open_without_weights(name, place, check=check))
    return _noted(console, checkpoint), reading


def or_suggested(console: Console, source: str, yes: bool, opened: Callable[[str], Found]) -> Found:
    """What `opened` makes of a source or, where that does not exist and the person agrees, of the id that is suggested instead."""
    if console.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported, which is later
    try:
        return opened(source)
    except SourceError as error:
        if error.suggestion is None or not (yes or _agreed(source, error.suggestion)):
            raise
        console.note(f"taking {error.suggestion}")
        return opened(error.suggestion)


def _noted(console: Console, checkpoint: Checkpoint) -> Checkpoint:
    for line in checkpoint.notes:
        console.note(f"note: {line}")
    return checkpoint


def on_the_hub(named: str) -> bool:
    """Whether what was typed for a model, or for a file of one, can only be a model on the Hub."""
    return hub_name(named) is not None and not os.path.exists(named) and not named.endswith(".json")


def at_revision(named: str, lookup: Lookup = Lookup()) -> tuple[str, Lookup]:
    """A model as it was typed, and how it is found: an address of the Hub or OWNER/REPO@REVISION as its id, at that revision.

    A folder of that name goes first. UsageError where no revision follows the @, or another option names another one.
    """
    if os.path.exists(named):
        return named, lookup
    from hf_layerprune.checkpoint.source import model_named

    id, revision = model_named(named, lookup.revision)
    return id, replace(lookup, revision=revision)


def named_again(typed: str, source: SourceRef) -> str:
    """How to name the same source in a command to be typed next: the folder as it was typed, or the id that was taken."""
    return quoted(typed) if Path(typed).is_dir() else source.id


def pinned(source: SourceRef) -> str:
    """An id with its commit, as options of a command."""
    return source.id + (f" --revision {source.commit}" if source.commit else "")


def source_name(identity: str) -> str:
    """The last part of a folder or Hub id, for naming what is made from it."""
    return Path(identity).name or "model"


def _agreed(source: str, suggestion: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"There is no {source}, or it is private or gated. Use {suggestion} instead?", default=False, err=True)
