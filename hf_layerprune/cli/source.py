"""Find the source that a person named; where a nearly right id exists, ask for it or take it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.cli.console import Console
from hf_layerprune.cli.options import quoted
from hf_layerprune.errors import SourceError

if TYPE_CHECKING:
    from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
    from hf_layerprune.checkpoint.index import Checkpoint


def open_source(
    console: Console,
    source: str,
    *,
    revision: str | None,
    local_files_only: bool,
    yes: bool,
    check: Callable[[ModelFacts], object] = lambda facts: None,
) -> Checkpoint:
    """The indexed checkpoint of a folder, `mini` or a Hub id; `check` as in `checkpoint.source.resolve`."""
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.source import resolve

    options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only, "check": check}
    if console.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported, which is later
    try:
        found = resolve(source, **options)
    except SourceError as error:
        if error.suggestion is None or not (yes or _agreed(source, error.suggestion)):
            raise
        console.note(f"taking {error.suggestion}")
        found = resolve(error.suggestion, **options)
    checkpoint = Checkpoint.open(found.path, found.id, found.commit)
    for line in checkpoint.notes:
        console.note(f"note: {line}")
    return checkpoint


def named_again(typed: str, source: SourceRef) -> str:
    """How to name the same source in a command to be typed next: the folder as it was typed, or the id that was taken."""
    if Path(typed).is_dir():
        return quoted(typed)
    return pinned(source)


def pinned(source: SourceRef) -> str:
    """An id with its commit, as options of a command."""
    return source.id + (f" --revision {source.commit}" if source.commit else "")


def source_name(identity: str) -> str:
    """The last part of a folder or Hub id, for naming what is made from it."""
    return Path(identity).name or "model"


def _agreed(source: str, suggestion: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"{source} is missing, private or gated. Use {suggestion} instead?", default=False, err=True)
