"""The repository that is pushed to: whether this token may write there, and what it holds, at one commit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, RECORDS
from hf_layerprune.artifacts.jsonfile import MAX_JSON_BYTES, parse_json
from hf_layerprune.checkpoint.remote import RemoteRepo
from hf_layerprune.checkpoint.remote_files import AGAIN, RemoteFile
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.publishing.contents import CARD_RECORD, OUR_RECORDS, Item, blob_id
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.preflight import Request
from hf_layerprune.publishing.refusals import LOG_IN

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_RECORD_BYTES = 1 << 20
# How long the Hub may be silent when it is connected to, asked something, or sent or made to do something; huggingface_hub waits for ever.
CONNECT_SECONDS, ANSWER_SECONDS, SEND_SECONDS = 30.0, 120.0, 600.0


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
        """A small file, None where there is none; PublishError unless it is what is listed, and of at most `limit` bytes."""
        if (file := self.files.get(name)) is None:
            return None
        if file.size > limit:
            raise PublishError(f"{file.where}: {file.size:,} bytes, at most {limit:,} are read. Remove it there, then push again.")
        content = b"".join(self.repo.read(name, 0, file.size))
        found = hashlib.sha256(content).hexdigest() if file.sha256 else blob_id(content)
        if found != (file.sha256 or file.blob):
            raise PublishError(f"{file.where}: was sent as another file than the repository lists. {AGAIN}")
        return content

    @cached_property
    def card_record(self) -> Mapping[str, Any]:
        """What the last push wrote down in `card.json`; nothing where there was none, or the record is none."""
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


def connect(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf-layerprune", library_version=version("hf-layerprune"))


@contextmanager
def time_limits() -> Iterator[None]:
    """Within the block huggingface_hub's client gives up on a Hub that is silent too long; one with limits of its own keeps them.

    Its client is one for the whole process, which is put back afterwards.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    before: Callable[[], Any] = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)

    def limited() -> Any:
        client = before()
        if not any(client.timeout.as_dict().values()):
            client.timeout = (CONNECT_SECONDS, ANSWER_SECONDS, SEND_SECONDS, None)
            client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], _longer]}
        return client

    set_client_factory(limited)
    try:
        yield
    finally:
        set_client_factory(before)


def _longer(request: Any) -> None:
    """A question is answered sooner than a commit, an upload, or the joining of its parts."""
    limits = request.extensions.get("timeout", {})
    slow = request.method == "PUT" or re.search(r"/commit/|complete", request.url.path)
    if slow and limits.get("read") == ANSWER_SECONDS:
        request.extensions = {**request.extensions, "timeout": {**limits, "read": SEND_SECONDS}}


def check_token(api: HfApi, request: Request) -> None:
    """PublishError where there is no token, or its account or scope surely has no right to do this, or is spelt otherwise."""
    account = api.whoami()
    if refused := why_refused(account, request):
        propose = "" if request.create_pr else ", or propose the change to its owner with --create-pr"
        raise PublishError(f"{request.repo}: {refused}. {LOG_IN}{propose}.")
    owner, _, name = request.repo.partition("/")
    spelt = {place.casefold(): place for place in _places(account)}.get(owner.casefold(), owner)
    if spelt != owner:
        raise PublishError(f"{request.repo}: the Hub spells its owner {spelt}. Push to {spelt}/{name}.")


def why_refused(account: Mapping[str, Any], request: Request) -> str | None:
    """Why a token may surely not do what is asked; None where it may, or the Hub does not tell."""
    owner, name = request.repo.split("/")[0].casefold(), str(account.get("name"))
    token = _at(account, "auth", "accessToken")
    if _at(token, "role") == "read":
        return f"the token of {name} may read only"
    if request.to_pull_request:
        return None
    scopes = _at(token, "fineGrained", "scoped")
    if isinstance(scopes, list) and "repo.write" not in (_at(token, "fineGrained", "global") or ()):
        writable = {str(_at(scope, "entity", "name")).casefold() for scope in scopes if "repo.write" in (_at(scope, "permissions") or ())}
        allowed = {owner, request.repo.casefold()} & writable
        return None if allowed else f"the token of {name} is fine-grained and has no right to write to repositories of {owner}"
    if _at(token, "role") == "write" and owner not in {place.casefold() for place in _places(account)}:
        return f"{name} is not {owner}, nor a member of it"
    return None


def _places(account: Mapping[str, Any]) -> set[str]:
    """The names under which an account may have repositories."""
    return {str(account.get("name")), *(str(_at(org, "name")) for org in account.get("orgs") or ())}


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


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
