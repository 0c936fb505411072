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
from hf_layerprune.hub.prove import small_file
from hf_layerprune.publishing.contents import CARD_RECORD, OUR_RECORDS, Item
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.preflight import Request

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """A repository at the commit that a push starts from. token: as given, or None for the one at hand."""

    id: str
    head: str
    private: bool
    token: str | bool | None = field(default=None, repr=False)

    @cached_property
    def repo(self) -> RemoteRepo:
        return RemoteRepo(self.id, self.head, token=self.token)

    @property
    def files(self) -> Mapping[str, RemoteFile]:
        return self.repo.files

    def read(self, name: str, limit: int) -> bytes | None:
        """A file of at most `limit` bytes, None where there is none; PublishError if it has more, or is not what is listed."""
        if (file := self.files.get(name)) is None:
            return None
        if file.size > limit:
            raise PublishError(f"{file.where}: {file.size:,} bytes, at most {limit:,} are read. Remove it there, then push again.")
        try:
            return small_file(self.repo, name, limit)
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
        """The files that the last push put there: its manifest's, and the records that it wrote down, else those that we know by name.

        PublishError where the repository holds somebody's own model.
        """
        content = self.read(f"{RECORDS}/{MANIFEST}", MAX_JSON_BYTES)
        if content is not None:
            named = parse_json(content, f"{self.id}/{RECORDS}/{MANIFEST}", "manifest").get("files")
            sent = self.card_record.get("records")
            records = {name for name in sent if isinstance(name, str)} if isinstance(sent, list) else OUR_RECORDS
            return frozenset(named if isinstance(named, dict) else ()) | {name for name in records if name.startswith(f"{RECORDS}/")}
        if CONFIG in self.files:
            raise PublishError(f"{self.id} holds a model that hf-layerprune did not push, which is not overwritten. Push to another name.")
        return frozenset()


def find_target(api: HfApi, request: Request) -> Target | None:
    """The repository as it is, None if it is yet to be created; PublishError where this push may not change it."""
    from huggingface_hub import errors

    try:
        info = api.model_info(request.repo, revision=request.revision)
    except errors.GatedRepoError:
        raise
    except errors.RevisionNotFoundError as error:
        if not request.to_pull_request:
            raise
        raise PublishError(f"{request.repo} has no pull request {request.revision}. Open one with --create-pr.") from error
    except errors.RepositoryNotFoundError:
        _check_new(api, request)
        return None
    if info.id != request.repo:
        raise PublishError(
            f"{request.repo} is {info.id} on the Hub, where it was renamed or is spelt so. Push to {info.id}, if that is meant."
        )
    if request.private and not info.private:
        raise PublishError(f"{request.repo} exists and is public, so --private cannot be honoured. Push to another name, or leave it out.")
    if not request.to_pull_request:
        _check_write(api, request.repo)
    return Target(request.repo, str(info.sha), bool(info.private), api.token)


def check_metadata(api: HfApi, request: Request, target: Target | None, card: Item) -> None:
    """PublishError where the Hub does not take the metadata of a card that is to be sent; no repository is needed for that."""
    from huggingface_hub import constants, utils

    if target and card.is_at(target.files.get(card.name)):
        return
    hub: Any = utils  # which exports these without saying so to type checkers
    response = hub.http_backoff(
        "POST",
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"content": bytes(card.content).decode("utf-8"), "repoType": "model"},
        headers=hub.build_hf_headers(token=api.token),
        retry_on_exceptions=(),
    )
    if response.status_code == 400:
        raise PublishError(
            f"{request.repo}: the Hub does not take the metadata of {card.name}: {_objections(response)}. "
            "Correct it in the folder's card, or the licence with --license, then push again."
        )
    hub.hf_raise_for_status(response)


def _objections(response: Any) -> str:
    """What the Hub says against a card, in one line."""
    try:
        found = [plain(error["message"]) for error in response.json()["errors"]]
    except (ValueError, LookupError, TypeError):
        found = []
    return "; ".join(found).rstrip(".") or "it does not say why"


def create(api: HfApi, request: Request) -> Target:
    """A new model repository; PublishError where there is one that this token may not see."""
    from huggingface_hub import errors

    try:
        api.create_repo(request.repo, private=request.private, repo_type="model")
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 409 or "already" not in (error.server_message or "").casefold():
            raise
        raise PublishError(
            f"{request.repo}: the Hub says that this name is taken, and shows this token no such model: it is hidden from it, or was "
            "made just now. Push again, with a token that may see it, or to another name."
        ) from error
    info = api.model_info(request.repo)
    return Target(request.repo, str(info.sha), bool(info.private), api.token)


def _check_new(api: HfApi, request: Request) -> None:
    """PublishError where a model of this name cannot, or should not, be created."""
    for kind in ("dataset", "space"):
        if api.repo_exists(request.repo, repo_type=kind):
            raise PublishError(f"{request.repo} is a {kind}, not a model. Push to another name.")
    if request.create_pr or request.revision not in (None, "main"):
        option = "--create-pr" if request.create_pr else "--revision"
        raise PublishError(f"{request.repo} does not exist, or this token may not see it. To create it, leave out {option}.")


def _check_write(api: HfApi, repo: str) -> None:
    """Ask the Hub itself; one that does not know the question answers when something is sent."""
    from huggingface_hub import errors

    try:
        api.auth_check(repo, write=True)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (400, 404, 405):
            raise
