"""The repository that is pushed to: whether this token may write there, and what it holds, at one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.files import MAX_JSON_BYTES, parse_json
from hf_layerprune.checkpoint.config import CONFIG
from hf_layerprune.checkpoint.remote import RemoteRepo
from hf_layerprune.checkpoint.remote_files import AGAIN, RemoteFile
from hf_layerprune.checkpoint.side_files import MANIFEST, RECORDS
from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.contents import blob_id
from hf_layerprune.publishing.preflight import Request
from hf_layerprune.publishing.refusals import LOG_IN

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Target:
    """A repository at the commit that a push starts from. token: as given, or None for the one at hand."""

    id: str
    head: str
    private: bool
    token: str | bool | None = None

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
    def pushed(self) -> frozenset[str]:
        """The files that the last push put there, by its manifest; PublishError where the repository holds somebody's own model."""
        content = self.read(f"{RECORDS}/{MANIFEST}", MAX_JSON_BYTES)
        if content is not None:
            named = parse_json(content, f"{self.id}/{RECORDS}/{MANIFEST}", "manifest").get("files")
            return frozenset(named) if isinstance(named, dict) else frozenset()
        if CONFIG in self.files:
            raise PublishError(f"{self.id} holds a model that hf-layerprune did not push, which is not overwritten. Push to another name.")
        return frozenset()


def connect(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf-layerprune", library_version=version("hf-layerprune"))


def check_token(api: HfApi, request: Request) -> None:
    """PublishError where there is no token, or its account or scope surely has no right to do this."""
    if refused := why_refused(api.whoami(), request):
        propose = "" if request.create_pr else ", or propose the change to its owner with --create-pr"
        raise PublishError(f"{request.repo}: {refused}. {LOG_IN}{propose}.")


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
    places = {name, *(str(_at(org, "name")) for org in account.get("orgs") or ())}
    if _at(token, "role") == "write" and owner not in {place.casefold() for place in places}:
        return f"{name} is not {owner}, nor a member of it"
    return None


def find_target(api: HfApi, request: Request) -> Target | None:
    """The repository as it is, None if it is yet to be created; PublishError where this push may not change it."""
    from huggingface_hub import errors

    try:
        info = api.model_info(request.repo, revision=request.revision)
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        _check_new(api, request)
        return None
    if request.private and not info.private:
        raise PublishError(f"{request.repo} exists and is public, so --private cannot be honoured. Push to another name, or leave it out.")
    if not request.to_pull_request:
        _check_write(api, request.repo)
    return Target(request.repo, str(info.sha), bool(info.private), api.token)


def create(api: HfApi, request: Request) -> Target:
    """A new model repository."""
    api.create_repo(request.repo, private=request.private, repo_type="model")
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
