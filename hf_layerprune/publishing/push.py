"""Push a folder that hf-layerprune made to the Hub: everything is checked before the first byte, and again after the last."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import MAX_JSON_BYTES
from hf_layerprune.artifacts.manifest import FileRecord
from hf_layerprune.artifacts.model_facts import hub_name
from hf_layerprune.checkpoint.shards import some
from hf_layerprune.checkpoint.side_files import is_of_the_model
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import LayerPruneError, PublishError, UsageError, shown
from hf_layerprune.hub.errors import Call, hub_errors
from hf_layerprune.hub.listing import RemoteRepo, differences
from hf_layerprune.hub.session import check_token, connect, time_limits
from hf_layerprune.publishing.card import figures_note, files_beside
from hf_layerprune.publishing.contents import Item, items_of, record_files
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.options import PushOptions
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.remote_card import card_items, local_card
from hf_layerprune.publishing.target import Target, check_metadata, create, find_target

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What transformers, peft or diffusers might load in place of a model that lies beside it.
LOADED = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")
FOREIGN = ("adapter_config.json", "model_index.json")


@dataclass(frozen=True, repr=False)
class Pushed(Readable):
    """What a push did."""

    url: str  # of the page
    commit: str  # that holds the files
    pull_request: str | None  # refs/pr/N
    uploaded: tuple[str, ...]  # files by name
    unchanged: tuple[str, ...]
    deleted: tuple[str, ...]
    left: tuple[str, ...]  # records that were not published
    created: bool  # whether the repository is new

    def __repr__(self) -> str:
        counts = {"sent": self.uploaded, "unchanged": self.unchanged, "deleted": self.deleted, "not published": self.left}
        files = [f"{len(names)} {what}" for what, names in counts.items() if names]
        return one_line(self, self.url, f"commit {self.commit[:7]}", *filter(None, [self.pull_request]), f"files: {', '.join(files)}")


@dataclass(frozen=True)
class Changes:
    """What a push does to a repository: items to send, items that are there, names to delete, and names that are left alone."""

    send: tuple[Item, ...]
    same: tuple[Item, ...]
    delete: tuple[str, ...]
    others: tuple[str, ...]


def named_target(repo: str, options: PushOptions) -> tuple[str, PushOptions]:
    """The id of the repository that is named, by an address of the Hub too, and the options at the revision that is named with it.

    UsageError for what is no model's repository, and for two revisions.
    """
    found = hub_name(repo)
    if found is None or found.kind not in (None, "model"):
        raise UsageError(f"{shown(repo)} is not a valid id of a repository on the Hub: expected OWNER/NAME, such as me/qwen-28-layers.")
    if found.revision and options.revision not in (None, found.revision):
        raise UsageError(f"{shown(repo)} names a revision, and --revision names another: give one of them.")
    return found.id, replace(options, revision=options.revision or found.revision)


def push(
    folder: Path,
    repo: str,
    options: PushOptions = PushOptions(),
    *,
    token: str | bool | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Pushed:
    """Publish a folder that convert, apply or heal wrote, with its records and a card, in one commit; nothing here is changed.

    repo: OWNER/NAME; say: given lines for people. Only what differs is sent; with nothing changed there is no commit.
    UsageError for options that cannot be honoured; PublishError for all that is refused, before anything is sent, and for what
    the Hub refuses: pushing again then sends the rest.
    """
    repo, options = named_target(repo, options)
    folder = Path(folder)
    facts = card_facts(folder, options)
    if not facts.license:
        raise PublishError(
            f"{folder}: the license of {facts.source.id} is not known, so this may not be published. "
            "Ask its authors, then name the license as the Hub spells it, such as --license apache-2.0 "
            "(to push once, to `hf-layerprune card` for every card of this folder)."
        )
    records, left = record_files(folder)
    api = connect(token)
    with hub_errors(Call(repo, token=token, push=True)), time_limits():
        hint = "" if options.create_pr else ", or propose the change to its owner with --create-pr"
        check_token(api, repo, proposes=options.to_pull_request, hint=hint)
        target = find_target(api, repo, options)
        beside = files_beside(folder, facts, options)
        local, renewed = local_card(folder, replace(facts, figures=frozenset(beside)), repo)
        items = items_of(folder, facts.manifest, records, beside)
        card, card_record, kept = card_items(target, local, [item.name for item in items], options)
        if not (target and card.is_at(target.files.get(card.name))):
            check_metadata(api, repo, card)
        _prove(folder)
        found = _changes([*items, card_record, card], target)
        for line in (figures_note(folder, facts), renewed, kept, *_notes(found, left)):
            if line:
                say(line)
        made = target or create(api, repo, options)
        commit, pull_request = made.head, options.revision if options.to_pull_request else None
        if found.send or found.delete:
            message = options.commit_message or f"Push {plain(facts.name)} with hf-layerprune {version('hf-layerprune')}"
            commit, pull_request = _commit(api, made, replace(options, commit_message=message), found, say)
    sent, same = (tuple(item.name for item in some_items) for some_items in (found.send, found.same))
    return Pushed(_page(repo, options, pull_request), commit, pull_request, sent, same, found.delete, left, target is None)


def _page(repo: str, options: PushOptions, pull_request: str | None) -> str:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{repo}"
    if pull_request:
        return f"{page}/discussions/{pull_request.rsplit('/', 1)[-1]}"
    return page if options.revision in (None, "main") else f"{page}/tree/{options.revision}"


def _prove(folder: Path) -> None:
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


def _changes(items: Sequence[Item], target: Target | None) -> Changes:
    """Compare what is to be there with what is. Files of an earlier push that are no longer ours go; a person's stay.

    PublishError where a weight file is there that no push of ours left: transformers might load it in place of ours.
    """
    listed = target.files if target else {}
    there = {item.name: item.is_at(listed.get(item.name)) for item in items}
    rest = sorted(listed.keys() - there.keys())
    ours = target.pushed if target else frozenset()
    delete = tuple(name for name in rest if name in ours)
    others = tuple(name for name in rest if name not in delete and is_of_the_model(name))
    if target and (foreign := [name for name in others if name in FOREIGN or name.endswith(LOADED)]):
        raise PublishError(
            f"{target.id} holds weights that hf-layerprune did not push ({some(foreign)}), which might be loaded in place of these. "
            "Remove them there, or push to another name."
        )
    send, same = (tuple(item for item in items if there[item.name] is known) for known in (False, True))
    return Changes(send, same, delete, others)


def _notes(found: Changes, left: tuple[str, ...]) -> list[str]:
    notes = [f"not published: {', '.join(map(shown, left))}"] if left else []
    if found.delete:
        notes.append(f"removed on the Hub, where an earlier push put what this folder lacks: {', '.join(map(shown, found.delete))}")
    if found.others:
        notes.append(f"left as they are on the Hub, {some(found.others)}")
    return notes


def _commit(api: HfApi, target: Target, options: PushOptions, found: Changes, say: Callable[[str], None]) -> tuple[str, str | None]:
    """Send what changed in one commit, which the Hub refuses with 412 if the repository is no longer at the target's, and compare.

    The commit's id, and the pull request that holds it, or None. PublishError naming the first file of which the Hub then lists
    something else than was sent. Where an answer is lost, pushing again finds what arrived; a pull request may then have been
    opened without its number being known, which is said.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    again = options.again(target.id)
    operations: list[Any] = [CommitOperationDelete(name) for name in found.delete]
    try:
        with hub_errors(Call(target.id, token=api.token, push=True, again=again)):
            operations += [CommitOperationAdd(item.name, item.content) for item in found.send]
            made: Any = api.create_commit(
                target.id,
                operations,
                commit_message=str(options.commit_message),
                revision=options.revision,
                create_pr=options.create_pr,
                parent_commit=target.head,
            )
        again = options.again(target.id, made.pr_revision if options.create_pr else None)
        with hub_errors(Call(target.id, token=api.token, push=True, again=again)):
            _compare(RemoteRepo(target.id, str(made.oid), token=api.token), found, again)
    except (KeyboardInterrupt, SystemExit):
        if options.create_pr:
            say(again)
        raise
    return str(made.oid), made.pr_revision or (options.revision if options.to_pull_request else None)


def _compare(repo: RemoteRepo, found: Changes, again: str) -> None:
    """PublishError naming the first file of which the Hub lists something else than was sent."""
    items = {item.name: item for item in (*found.send, *found.same)}
    names = [name for name in (*items, *found.delete) if name in repo.files]

    def listed(name: str) -> FileRecord:
        item = items[name]
        return item.record if item.is_at(repo.files[name]) else repo.record(name, MAX_JSON_BYTES)

    expected = {name: item.record for name, item in items.items()}
    if difference := next(differences(expected, {name: repo.files[name].size for name in names}, listed), None):
        raise PublishError(f"{repo.id} @ {repo.commit[:7]}: {difference}; the Hub does not hold what was sent. {again}")
