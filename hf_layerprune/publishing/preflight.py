"""What is checked on this machine before a push: the options, the folder, its licence, every byte of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from hf_layerprune.artifacts.model_facts import is_hub_id
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import LayerPruneError, PublishError, UsageError, shown
from hf_layerprune.hub.errors import AGAIN
from hf_layerprune.publishing.card import CardFacts, card_facts
from hf_layerprune.publishing.facts import Named


@dataclass(frozen=True)
class Request:
    """Where a push goes. repo: OWNER/NAME; revision: a branch or refs/pr/N, None for main; create_pr: propose it instead of
    changing the branch; private: for a repository that is yet to be created; message: of the commit, None for the default."""

    repo: str
    revision: str | None = None
    create_pr: bool = False
    private: bool = False
    message: str | None = None

    def __post_init__(self) -> None:
        """UsageError where the options cannot be honoured, whatever the folder and the Hub hold."""
        if not is_hub_id(self.repo):
            raise UsageError(f"{shown(self.repo)} is no id of a repository on the Hub: expected OWNER/NAME, such as me/qwen-28-layers.")
        if self.create_pr and self.revision is not None:
            raise UsageError("--create-pr opens a pull request for main, and --revision names another place: give one of them.")
        if self.revision is not None and not _is_branch(self.revision):
            raise UsageError(f"--revision {shown(self.revision)}: expected a branch, or a pull request such as refs/pr/3.")
        if self.message is not None and not self.message.strip():
            raise UsageError("--commit-message is empty. Say what changed, or leave it out.")

    @property
    def to_pull_request(self) -> bool:
        """Whether nothing that people download changes by it."""
        return self.create_pr or (self.revision or "").startswith("refs/pr/")

    def again(self, pull_request: str | None = None) -> str:
        """What to do after a failure or an interruption. pull_request: that was opened, None if none is known."""
        if pull_request is not None:
            return f"{pull_request} was opened: go on with --revision {pull_request} in place of --create-pr."
        if self.create_pr:
            return f"{AGAIN} If {self.repo} has a new pull request, go on with --revision refs/pr/N in place of --create-pr."
        return AGAIN


def publishable(folder: Path, **named: Unpack[Named]) -> CardFacts:
    """The facts of a folder that is ours and whose licence is known; PublishError otherwise."""
    facts = card_facts(folder, **named)
    if not facts.license:
        raise PublishError(
            f"{folder}: the licence of {facts.source.id} is not known, so this may not be published. "
            "Ask its authors, then name the licence as the Hub spells it, such as --license apache-2.0 "
            "(to push once, to `hf-layerprune card` for every card of this folder)."
        )
    return facts


def prove(folder: Path) -> None:
    """PublishError naming the first difference unless every file is what the manifest says. Reads all weights once."""
    try:
        found = verify(folder)
    except LayerPruneError as error:
        raise PublishError(f"{folder} cannot be proved: {error}") from error
    if not found.ok:
        more = f" and {len(found.differences) - 1} more" if len(found.differences) > 1 else ""
        raise PublishError(
            f"{folder} is not what its manifest says: {found.differences[0]}{more}. See `hf-layerprune verify`, and write it again."
        )


def _is_branch(revision: str) -> bool:
    """Whether git takes it for a branch or a pull request; commits cannot be committed to."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return False
    if revision.startswith("refs/"):
        return re.fullmatch(r"refs/pr/[1-9]\d{0,8}", revision) is not None
    return re.fullmatch(r"(?!.*(\.\.|//|@\{|\.lock$|/$))[A-Za-z0-9_][\w./-]{0,199}", revision, re.ASCII) is not None
