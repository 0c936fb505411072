"""The repository that is pushed to: whether this push may change it, and what it holds, at one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, RECORDS
from hf_layerprune.artifacts.jsonfile import MAX_JSON_BYTES, parse_json
from hf_layerprune.errors import CheckpointError, LayerPruneError, PublishError
from hf_layerprune.hub.listing import RemoteFile, RemoteRepo
from hf_layerprune.publishing.contents import CARD_RECORD, Item
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.options import PushOptions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """A repository at the commit that a push starts from. token: as given, or None for the one at hand."""

    id: str
    head: str
    token: str | bool | None = field(default=None, repr=False)

    @cached_property
    def _repo(self) -> RemoteRepo:
        return RemoteRepo(self.id, self.head, token=self.token)

    @property
    def files(self) -> Mapping[str, RemoteFile]:
        return self._repo.files

    def read(self, name: str, limit: int) -> bytes | None:
        """A file of at most `limit` bytes, None where there is none; PublishError if it has more, or is not what is listed."""
        if (file := self.files.get(name)) is None:
            return None
        if file.size > limit:
            raise PublishError(f"{file.where}: {file.size:,} bytes, at most {limit:,} are read. Remove it there, then push again.")
        try:
            return self._repo.read_whole(name, limit)
        except CheckpointError as error:
            raise PublishError(str(error)) from error

    @cached_property
    def card_record(self) -> Mapping[str, Any]:
        """What the last push recorded in `card.json`; empty if the record is missing or invalid."""
        content = self.read(CARD_RECORD, MAX_RECORD_BYTES)
        try:
            return parse_json(content, f"{self.id}/{CARD_RECORD}", "record of the card") if content else {}
        except LayerPruneError:
            return {}

    @cached_property
    def pushed(self) -> frozenset[str]:
        """The files that the last push put there: its manifest's, and the records that it wrote down.

        PublishError where the repository holds somebody's own model.
        """
        content = self.read(f"{RECORDS}/{MANIFEST}", MAX_JSON_BYTES)
        if content is None and CONFIG in self.files:
            raise PublishError(f"{self.id} holds a model that hf-layerprune did not push, which is not overwritten. Push to another name.")
        if content is None:
            return frozenset()
        named, sent = parse_json(content, f"{self.id}/{RECORDS}/{MANIFEST}", "manifest").get("files"), self.card_record.get("records")
        records = [name for name in sent if isinstance(name, str) and name.startswith(f"{RECORDS}/")] if isinstance(sent, list) else []
        return frozenset(named if isinstance(named, dict) else ()) | {*records}


def find_target(api: HfApi, repo: str, options: PushOptions) -> Target | None:
    """The repository as it is, None if it is yet to be created; PublishError where this push may not change it."""
    from huggingface_hub import errors

    try:
        info = api.model_info(repo, revision=options.revision)
    except errors.GatedRepoError:
        raise
    except errors.RevisionNotFoundError as error:
        if not options.to_pull_request:
            raise
        raise PublishError(f"{repo} has no pull request {options.revision}. Open one with --create-pr.") from error
    except errors.RepositoryNotFoundError:
        for kind in ("dataset", "space"):
            if api.repo_exists(repo, repo_type=kind):
                raise PublishError(f"{repo} is a {kind}, not a model. Push to another name.") from None
        if options.create_pr or options.revision not in (None, "main"):
            option = "--create-pr" if options.create_pr else "--revision"
            raise PublishError(f"{repo} does not exist, or this token may not see it. To create it, leave out {option}.") from None
        return None
    if info.id != repo:
        raise PublishError(f"{repo} is {info.id} on the Hub, where it was renamed or is spelt so. Push to {info.id}, if that is meant.")
    if options.private and not info.private:
        raise PublishError(f"{repo} exists and is public, so --private cannot be honoured. Push to another name, or leave it out.")
    if not options.to_pull_request:
        try:
            api.auth_check(repo, write=True)
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in (400, 404, 405):  # a Hub that does not know the question answers when something is sent
                raise
    return Target(repo, str(info.sha), api.token)


def check_metadata(api: HfApi, repo: str, card: Item) -> None:
    """PublishError where the Hub does not take the metadata of a card that is to be sent; no repository is needed for that."""
    from huggingface_hub import constants, utils

    hub: Any = utils  # which exports these without saying so to type checkers
    response = hub.http_backoff(
        "POST",
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"content": bytes(card.content).decode("utf-8"), "repoType": "model"},
        headers=hub.build_hf_headers(token=api.token),
        retry_on_exceptions=(),
    )
    if response.status_code != 400:
        hub.hf_raise_for_status(response)
        return
    try:
        found = "; ".join(plain(error["message"]) for error in response.json()["errors"])
    except (ValueError, LookupError, TypeError):
        found = ""
    raise PublishError(
        f"{repo}: the Hub does not take the metadata of {card.name}: {found.rstrip('.') or 'it does not say why'}. "
        "Correct it in the folder's card, or the license with --license, then push again."
    )


def create(api: HfApi, repo: str, options: PushOptions) -> Target:
    """A new model repository; PublishError where there is one that this token may not see."""
    from huggingface_hub import errors

    try:
        api.create_repo(repo, private=options.private, repo_type="model")
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 409 or "already" not in (error.server_message or "").casefold():
            raise
        raise PublishError(
            f"{repo}: the Hub says that this name is taken, and shows this token no such model: it is hidden from it, or was "
            "made just now. Push again, with a token that may see it, or to another name."
        ) from error
    return Target(repo, str(api.model_info(repo).sha), api.token)
