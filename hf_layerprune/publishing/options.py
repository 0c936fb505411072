"""What a card and a push are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError, shown
from hf_layerprune.hub.errors import AGAIN


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """What a card says that the records of the folder do not."""

    license: str | None = option(None, "The license, as the Hub spells it.", "ID", "the source's")
    control: Path | None = option(None, "The unpruned source after the same fine-tuning, evaluated: what that alone does.", "DIR")
    pruned: Path | None = option(None, "Of a healed model: the pruned one before that, evaluated, to stand beside it.", "DIR")


@dataclass(frozen=True, kw_only=True)
class PushOptions(CardOptions):
    """Where a push goes, and what its card says. Raises UsageError where the options cannot be honoured."""

    private: bool = option(False, "If REPO is yet to be created, let only its owner see it.")
    create_pr: bool = option(False, "Open a pull request instead of changing the main branch.")
    revision: str | None = option(None, "A branch, or refs/pr/N to go on with a pull request.", "REF", "main")
    commit_message: str | None = option(None, "Of the one commit that a push makes.", "TEXT")

    def __post_init__(self) -> None:
        if self.create_pr and self.revision is not None:
            raise UsageError("--create-pr opens a pull request for main, and --revision names another place: give one of them.")
        if self.revision is not None and not _is_branch(self.revision):
            raise UsageError(f"--revision {shown(self.revision)}: expected a branch, or a pull request such as refs/pr/3.")
        if self.commit_message is not None and not self.commit_message.strip():
            raise UsageError("--commit-message is empty. Say what changed, or leave it out.")

    @property
    def to_pull_request(self) -> bool:
        """Whether nothing that people download changes by it."""
        return self.create_pr or (self.revision or "").startswith("refs/pr/")

    def again(self, repo: str, pull_request: str | None = None) -> str:
        """What to do after a failure or an interruption. pull_request: that was opened, None if none is known."""
        if pull_request is not None:
            return f"{pull_request} was opened: go on with --revision {pull_request} in place of --create-pr."
        if self.create_pr:
            return f"{AGAIN} If {repo} has a new pull request, go on with --revision refs/pr/N in place of --create-pr."
        return AGAIN


def _is_branch(revision: str) -> bool:
    """Whether git takes it for a branch or a pull request; a commit cannot be committed to."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return False
    if revision.startswith("refs/"):
        return re.fullmatch(r"refs/pr/[1-9]\d{0,8}", revision) is not None
    return re.fullmatch(r"(?!.*(\.\.|//|@\{|\.lock$|/$))[A-Za-z0-9_][\w./-]{0,199}", revision, re.ASCII) is not None
