"""Push a folder that hf-layerprune made to the Hub: everything is checked before the first byte, and again after the last."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

from hf_layerprune.artifacts.folder import README
from hf_layerprune.checkpoint.shards import some
from hf_layerprune.errors import shown
from hf_layerprune.hub.errors import push_errors
from hf_layerprune.hub.session import check_token, connect, time_limits
from hf_layerprune.publishing.commit import Changes, Commit, changes, going_on, publish
from hf_layerprune.publishing.contents import items_of, record_files
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.facts import Named
from hf_layerprune.publishing.figures import figures_note
from hf_layerprune.publishing.hub import Target, check_metadata, create, find_target
from hf_layerprune.publishing.preflight import Request, prove, publishable
from hf_layerprune.publishing.remote_card import LocalCard, card_items


@dataclass(frozen=True)
class Pushed:
    """url: the page; commit: that holds the files; pull_request: refs/pr/N, or None; uploaded, unchanged, deleted: files by name;
    left: records that were not published; created: whether the repository is new."""

    url: str
    commit: str
    pull_request: str | None
    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    deleted: tuple[str, ...]
    left: tuple[str, ...]
    created: bool


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    **named: Unpack[Named],
) -> Pushed:
    """Publish a folder that convert, apply or heal wrote, with its records and a card, in one commit; nothing here is changed.

    private: for a repository that is yet to be created; create_pr: open a pull request; revision: a branch, or refs/pr/N to go
    on with; named: license, control and pruned, as `card_facts` takes them; say: given lines for people.
    Only what differs is sent; with nothing changed there is no commit. UsageError for options that cannot be honoured;
    PublishError for all that is refused, before anything is sent, and for what the Hub refuses: pushing again then sends the rest.
    """
    request = Request(repo_id, revision, create_pr, private, commit_message)
    folder = Path(folder)
    facts = publishable(folder, **named)
    records, left = record_files(folder)
    api = connect(token)
    with push_errors(repo_id, token), time_limits():
        hint = "" if create_pr else ", or propose the change to its owner with --create-pr"
        check_token(api, request.repo, proposes=request.to_pull_request, hint=hint)
        target = find_target(api, request)
        with LocalCard(folder, request.repo, **named) as card:
            others = items_of(folder, facts.manifest, records, card.place)
            page, record, kept = card_items(target, request, card.text, [item.name for item in others])
            check_metadata(api, request, target, page)
            prove(folder)
            found = changes([*others, record, page], target)
            for line in _notes(figures_note(folder, facts), card, kept, left, found):
                say(line)
            made = target or create(api, request)
            message = f"Push {plain(facts.name)} with hf-layerprune {version('hf-layerprune')}"
            commit = _carried_out(request, made, found) or publish(api, request, made, found, message, say)
    return _pushed(request, commit, found, left, target)


def _carried_out(request: Request, target: Target, found: Changes) -> Commit | None:
    """The commit that is there where nothing has to change."""
    if found.send or found.delete:
        return None
    return Commit(target.head, going_on(request))


def _notes(figures: str | None, card: LocalCard, kept: str | None, left: tuple[str, ...], found: Changes) -> list[str]:
    lines = [figures] if figures else []
    if card.renewed:
        lines.append(f"{README}: written anew from the records and options of today; `hf-layerprune card` does the same in the folder.")
    if kept:
        lines.append(kept)
    if left:
        lines.append(f"not published: {', '.join(map(shown, left))}")
    if found.delete:
        lines.append(f"removed on the Hub, where an earlier push put what this folder lacks: {', '.join(map(shown, found.delete))}")
    if found.others:
        lines.append(f"left as they are on the Hub, {some(found.others)}")
    return lines


def _pushed(request: Request, commit: Commit, found: Changes, left: tuple[str, ...], before: Target | None) -> Pushed:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{request.repo}"
    if commit.pull_request:
        page += f"/discussions/{commit.pull_request.rsplit('/', 1)[-1]}"
    elif request.revision not in (None, "main"):
        page += f"/tree/{request.revision}"
    sent, same = (tuple(item.name for item in items) for items in (found.send, found.same))
    return Pushed(page, commit.oid, commit.pull_request, sent, same, found.delete, left, before is None)
