"""A connection to the Hub for a push: who holds the token and what it may do, and how long the Hub may be silent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_layerprune.errors import PublishError
from hf_layerprune.families.family import find
from hf_layerprune.hub.errors import LOG_IN

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# How long the Hub may be silent when it is connected to, asked something, or sent or made to do something; huggingface_hub has no limit.
CONNECT_SECONDS, ANSWER_SECONDS, SEND_SECONDS = 30.0, 120.0, 600.0


def connect(token: str | bool | None) -> HfApi:
    """The Hub's interface, under this package's name."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf-layerprune", library_version=version("hf-layerprune"))


@contextmanager
def time_limits() -> Iterator[None]:
    """Within the block huggingface_hub's client gives up on a Hub that is silent too long; one with limits of its own keeps them.

    The client is one for the whole process, and is as before afterwards. One that huggingface_hub opens anew within the block,
    after it could not connect, has no limits.
    """
    from huggingface_hub import get_session

    client: Any = get_session()
    timeout, hooks = client.timeout, client.event_hooks
    if not any(timeout.as_dict().values()):
        client.timeout = (CONNECT_SECONDS, ANSWER_SECONDS, SEND_SECONDS, None)
        client.event_hooks = {**hooks, "request": [*hooks["request"], _allow_longer]}
    try:
        yield
    finally:
        client.timeout, client.event_hooks = timeout, hooks


def _allow_longer(request: Any) -> None:
    """A commit, an upload and the joining of its parts take longer than an answer."""
    limits = request.extensions.get("timeout", {})
    slow = request.method == "PUT" or re.search(r"/commit/|complete", request.url.path)
    if slow and limits.get("read") == ANSWER_SECONDS:
        request.extensions = {**request.extensions, "timeout": {**limits, "read": SEND_SECONDS}}


def check_token(api: HfApi, repo: str, *, proposes: bool, hint: str) -> None:
    """PublishError where there is no token, or its account or scope surely has no right to write to `repo`, or is spelt otherwise.

    proposes: nothing but a pull request is written; hint: what else may help, after a comma.
    """
    account = api.whoami()
    spelt, _, name = repo.partition("/")
    owner, places = spelt.casefold(), {str(account.get("name")), *(str(find(org, "name")) for org in account.get("orgs") or ())}
    if refused := _why_refused(account, owner, repo.casefold(), {place.casefold() for place in places}, proposes):
        raise PublishError(f"{repo}: {refused}. {LOG_IN}{hint}.")
    for place in places:
        if place.casefold() == owner and place != spelt:
            raise PublishError(f"{repo}: the Hub spells its owner {place}. Push to {place}/{name}.")


def _why_refused(account: Mapping[str, Any], owner: str, repo: str, places: Set[str], proposes: bool) -> str | None:
    """Why a token may surely not do what is asked; None where it may, or the Hub does not tell.

    account: the Hub's answer to `whoami`; places: the names under which it may have repositories, in lower case as owner and repo.
    """
    name, token = account.get("name"), find(account, "auth.accessToken")
    if find(token, "role") == "read":
        return f"the token of {name} may read only"
    if proposes:
        return None
    scopes = find(token, "fineGrained.scoped")
    if isinstance(scopes, list) and "repo.write" not in (find(token, "fineGrained.global") or ()):
        writable = {str(find(scope, "entity.name")).casefold() for scope in scopes if "repo.write" in (find(scope, "permissions") or ())}
        if not writable & {owner, repo}:
            return f"the token of {name} is fine-grained and has no right to write to repositories of {owner}"
    elif find(token, "role") == "write" and owner not in places:
        return f"{name} is not {owner}, nor a member of it"
    return None
