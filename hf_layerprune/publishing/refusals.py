"""What the Hub's answers mean for the person who pushes: one line each, with the next step, and never a token in it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hf_layerprune.checkpoint.hub_errors import transport_error
from hf_layerprune.checkpoint.redacted_log import redacted_log
from hf_layerprune.errors import LayerPruneError, PublishError, SourceError, redacted

AGAIN = "Push again: what was sent is kept, and only the rest is sent."
LOG_IN = "Log in (hf auth login) with a token that may write, or set HF_TOKEN"


def current_token(token: str | bool | None) -> str | None:
    """The token that is sent: the given one, else that of the environment or of `hf auth login`."""
    from huggingface_hub import get_token

    return token if isinstance(token, str) else None if token is False else get_token()


@contextmanager
def push_errors(repo: str, token: str | bool | None, again: str = AGAIN) -> Iterator[None]:
    """Turn what huggingface_hub raises within the block into PublishError about the repository, and keep secrets out of its log.

    again: how to go on, where that is not to push again; said after every error, ours too.
    """
    secret = current_token(token)
    try:
        with redacted_log(secret):
            yield
    except _raised_by_a_push() as error:
        root = _root(error)
        if not isinstance(root, LayerPruneError):
            said = f"{repo}: {explained(root, repo, secret)}"
        elif again == AGAIN or again in str(error):
            raise
        else:
            said = str(error)
        raise PublishError(said if again == AGAIN else f"{said.removesuffix(AGAIN).rstrip()} {again}") from error


def explained(error: BaseException, repo: str, secret: str | None = None) -> str:
    """What an answer of the Hub about a repository, or its lack, means, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"there is no token to push with. {LOG_IN}."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on, so nothing can be pushed. Unset HF_HUB_OFFLINE and push again."
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision. Create the branch first (hf repos branch create), or leave out --revision."
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: accept the terms at {constants.ENDPOINT}/{repo}, then push again."
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error.response, redacted(" ".join((error.server_message or "").split())[:200], secret))
    if isinstance(error, transport_error()):
        return f"the connection to the Hub ({constants.ENDPOINT}) failed ({_first_line(error, secret)}). {AGAIN}"
    if type(error).__name__ == "XetAuthenticationError":
        return f"the Hub's storage did not accept the token ({_first_line(error, secret)}). {LOG_IN}. {AGAIN}"
    if isinstance(error, (OSError, RuntimeError, *_xet_errors())):
        return f"reading or sending failed ({_first_line(error, secret)}). {AGAIN}"
    if isinstance(error, json.JSONDecodeError):
        return f"the Hub's answer is none that huggingface_hub can read ({_first_line(error, secret)}). Wait some minutes. {AGAIN}"
    return f"the Hub does not take it: {_first_line(error, secret)}. Correct that, then push again."


def retry_after(headers: Any) -> int | None:
    """Seconds to wait, as an answer's headers say."""
    from huggingface_hub import utils

    hub: Any = utils
    limit = getattr(hub, "parse_ratelimit_headers", lambda headers: None)(headers)
    if limit is not None and limit.remaining == 0:
        return int(limit.reset_in_seconds)
    found = re.fullmatch(r"\d{1,6}", headers.get("Retry-After", "").strip())
    return int(found[0]) if found else None


def _answer(response: Any, message: str) -> str:
    status = response.status_code
    if status == 401:
        return f"the Hub did not accept the token, or hides the repository from it (401). {LOG_IN}, and check the name."
    if status == 403:
        said = f": {message}" if message else ""
        return f"the Hub refuses this token (403{said}). Use one that may write there, or propose the change with --create-pr."
    if status == 404:
        return "the Hub does not find it (404): it was renamed or removed, or this token may not see it. Check the name."
    if status == 409:
        return "another change is under way there (409). Wait a minute. " + AGAIN
    if status == 412:
        return "somebody changed it meanwhile (412), so nothing was published. Look at its page, then push again."
    if status == 429:
        wait = retry_after(response.headers)
        return f"the Hub asks for fewer requests (429). Wait {f'{wait} seconds' if wait is not None else 'some minutes'}. {AGAIN}"
    if status >= 500:
        return f"the Hub answered with error {status}. Wait some minutes. {AGAIN}"
    return f"the Hub does not take it ({status}{f': {message}' if message else ''}). Correct that, then push again."


def _raised_by_a_push() -> tuple[type[Exception], ...]:
    return transport_error(), OSError, ValueError, RuntimeError, LayerPruneError, *_xet_errors()


def _xet_errors() -> tuple[type[Exception], ...]:
    """The exceptions of hf_xet, which sends large files and has its own; none where it was not loaded."""
    found = vars(sys.modules["hf_xet"]).values() if "hf_xet" in sys.modules else ()
    return tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))


def _root(error: BaseException) -> BaseException:
    """What huggingface_hub wraps in a RuntimeError for a file that was not sent, and the checkpoint room in a SourceError."""
    while isinstance(error, (RuntimeError, SourceError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException, secret: str | None) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return redacted(text, secret)[:300].rstrip(".")
