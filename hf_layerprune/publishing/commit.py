"""One commit for all that changed, guarded by the commit it starts from and compared afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import README
from hf_layerprune.checkpoint.shards import some
from hf_layerprune.checkpoint.side_files import is_of_the_model
from hf_layerprune.errors import PublishError, shown
from hf_layerprune.hub.errors import push_errors, transport_error
from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.hub.prove import described
from hf_layerprune.publishing.contents import Item
from hf_layerprune.publishing.hub import Target
from hf_layerprune.publishing.preflight import Request

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What transformers, peft or diffusers might load in place of a model that lies beside it.
LOADED = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")
FOREIGN = ("adapter_config.json", "model_index.json")


@dataclass(frozen=True)
class Changes:
    """What a push does to a repository: items to send, items that are there, names to delete, and names that are left alone."""

    send: tuple[Item, ...]
    same: tuple[Item, ...]
    delete: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """oid: of the commit; pull_request: refs/pr/N, None where it went to a branch."""

    oid: str
    pull_request: str | None


def changes(items: Sequence[Item], target: Target | None) -> Changes:
    """Compare what is to be there with what is. Files of an earlier push that are no longer ours go; a person's stay.

    PublishError where a weight file is there that no push of ours left: transformers might load it in place of ours.
    """
    listed = target.files if target else {}
    there = {item.name: item.is_at(listed.get(item.name)) for item in items}
    rest = sorted(listed.keys() - {item.name for item in items})
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


def publish(api: HfApi, request: Request, target: Target, found: Changes, default: str, say: Callable[[str], None]) -> Commit:
    """Send what changed and commit it; the Hub refuses with 412 if the repository is no longer at the target's commit.

    PublishError naming the first file of which the Hub then lists something else than was sent. Where an answer is lost, pushing
    again finds what arrived; only a pull request may have been opened without its number being known, which is said.
    """
    again = request.again()
    try:
        commit = _committed(api, request, target, found, default)
        again = request.again(commit.pull_request if request.create_pr else None)
        with push_errors(request.repo, api.token, again):
            _check(request, commit, found, api.token, again)
        return commit
    except (KeyboardInterrupt, SystemExit):
        if request.create_pr:
            say(again)
        raise


def _committed(api: HfApi, request: Request, target: Target, found: Changes, default: str) -> Commit:
    try:
        made: Any = api.create_commit(
            request.repo,
            _operations(found),
            commit_message=request.message or default,
            revision=request.revision,
            create_pr=request.create_pr,
            parent_commit=target.head,
        )
    except (transport_error(), OSError, json.JSONDecodeError) as error:
        if not request.create_pr or getattr(getattr(error, "response", None), "status_code", 599) < 500:
            raise
        with push_errors(request.repo, api.token, request.again()):
            raise
    return Commit(str(made.oid), made.pr_revision or going_on(request))


def going_on(request: Request) -> str | None:
    """The pull request that a push goes on with, if it does."""
    return request.revision if request.to_pull_request else None


def _check(request: Request, commit: Commit, found: Changes, token: str | bool | None, again: str) -> None:
    """PublishError naming the first file of which the Hub lists something else than was sent."""
    if difference := _difference(RemoteRepo(request.repo, commit.oid, token=token), [*found.send, *found.same], found.delete):
        raise PublishError(f"{request.repo} @ {commit.oid[:7]}: {difference}; the Hub does not hold what was sent. {again}")


def _difference(repo: RemoteRepo, items: Sequence[Item], gone: Sequence[str]) -> str | None:
    for item in items:
        file = repo.files.get(item.name)
        if file is None:
            return f"{shown(item.name)} is missing"
        if not item.is_at(file):
            return f"{shown(item.name)} is listed with {file.size:,} bytes and {file.sum}, expected {described(item.record)}"
    return next((f"{shown(name)} is still there" for name in gone if name in repo.files), None)


def _operations(found: Changes) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationDelete(name) for name in found.delete]
    for item in found.send:
        added = CommitOperationAdd(item.name, item.content)
        if item.name != README and not _hashes_what_it_sends():
            added.upload_info.sha256 = bytes.fromhex(item.record.sha256)  # it was just read: not once more
        operations.append(added)
    return operations


def _hashes_what_it_sends() -> bool:
    """Whether files go by Xet, which hashes them as it reads them and believes a given sha256; an LFS store compares the two."""
    from huggingface_hub.utils import _runtime

    return _runtime.is_xet_available()
