"""One table of what can go wrong in a call to the Hub: each error becomes one line with the next step, and no token in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hf_layerprune.errors import DataError, LayerPruneError, PublishError, SourceError, UsageError, first_line, shown

TOKENS = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")  # names such as hf_layerprune are shorter, and have more underscores
SIGNATURES = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]+")  # what a signed address permits is in its query
# httpx logs each address at INFO, signed ones too; the names match later versions, such as httpx2, as well.
LOGGERS = ("httpx", "httpcore", "huggingface_hub")

AGAIN = "Push again: what was sent is kept, and only the rest is sent."
LOG_IN = "Log in (hf auth login) with a token that may write, or set HF_TOKEN"

CACHE_ONLY = "{repo} is not, or not wholly, in the cache. Fetch it once online, without --local-files-only and HF_HUB_OFFLINE."
NO_ANSWER = (
    "{repo} cannot be fetched: the Hub ({endpoint}) does not answer, and the cache has no complete copy. "
    "Try again later, or on a machine with network; --local-files-only uses a copy in the cache."
)
FETCHING = "{repo}: fetching it failed: {reason}. Run again{kept}."
SENDING = "{repo}: reading or sending failed ({reason}). {again}"

# By the status of an answer, or the class of an exception: what it means to somebody who reads, and to somebody who pushes. Of an
# exception the first of its classes counts that has a text. None: that is looked for among the more general classes.
TABLE: Mapping[int | str, tuple[str | None, str | None]] = {
    "GatedRepoError": (
        "{repo} is gated: accept its terms at {page}, then log in (hf auth login).",
        "{repo}: it is gated: accept the terms at {page}, then push again.",
    ),
    "RepositoryNotFoundError": (
        "{the}{repo} is missing, private or gated, and no {local} of that name exists here. "
        "Check the name, log in (hf auth login), or accept its terms at {page}.",
        None,
    ),
    "RevisionNotFoundError": (
        "{repo} has no revision {revision}. Its branches and tags are listed at {page}/tree/main.",
        "{repo}: it has no such revision. Create the branch first (hf repos branch create), or leave out --revision.",
    ),
    401: (
        "{repo}: the Hub did not accept the token. Log in again (hf auth login).",
        "{repo}: the Hub did not accept the token, or hides the repository from it (401). {log_in}, and check the name.",
    ),
    403: (
        "{repo}: the Hub refuses access. Accept the terms at {page}, or use a token that may read it (hf auth login).",
        "{repo}: the Hub refuses this token (403{said}). Use one that may write there, or propose the change with --create-pr.",
    ),
    404: (
        "{repo}: the Hub does not find it (404). Check the name and the revision.",
        "{repo}: the Hub does not find it (404): it was renamed or removed, or this token may not see it. Check the name.",
    ),
    409: (None, "{repo}: another change is under way there (409). Wait a minute. {again}"),
    412: (None, "{repo}: somebody changed it meanwhile (412), so nothing was published. Look at its page, then push again."),
    429: (
        "{repo}: the Hub asks for fewer requests (429). Wait {wait} and run again{kept}.",
        "{repo}: the Hub asks for fewer requests (429). Wait {wait}. {again}",
    ),
    500: (None, "{repo}: the Hub answered with error {status}. Wait some minutes. {again}"),  # and all above
    "HfHubHTTPError": (
        "{repo}: the Hub answered with error {status}. Try again later{kept}.",
        "{repo}: the Hub does not take it ({status}{said}). Correct that, then push again.",
    ),
    "LocalTokenNotFoundError": (None, "{repo}: there is no token to push with. {log_in}."),
    "OfflineModeIsEnabled": (CACHE_ONLY, "{repo}: offline mode is on, so nothing can be pushed. Unset HF_HUB_OFFLINE and push again."),
    "LocalEntryNotFoundError": (NO_ANSWER, None),
    "RevisionResolutionError": (NO_ANSWER, SENDING),
    "HTTPError": (FETCHING, "{repo}: the connection to the Hub ({endpoint}) failed ({reason}). {again}"),
    "XetAuthenticationError": (None, "{repo}: the Hub's storage did not accept the token ({reason}). {log_in}. {again}"),
    "OSError": (FETCHING, SENDING),
    "RuntimeError": (FETCHING, SENDING),  # of hf_xet, which sends and fetches large files, and of what huggingface_hub wraps
    "JSONDecodeError": (
        "{repo}: huggingface_hub could not parse the Hub's response ({reason}). Try again later{kept}.",
        "{repo}: huggingface_hub could not parse the Hub's response ({reason}). Wait some minutes. {again}",
    ),
    "ValueError": (None, "{repo}: the Hub does not take it: {reason}. Correct that, then push again."),
}
# Of a dataset all else: datasets and its readers raise of many kinds.
NOT_A_DATASET = "{repo}: cannot be read as a dataset: {reason}. If the network failed, run again."


@dataclass(frozen=True)
class Call:
    """What is asked of the Hub, as its errors tell it."""

    repo: str  # OWNER/NAME
    revision: str | None = None  # as a person named it
    token: str | bool | None = field(default=None, repr=False)
    cache_only: bool = False  # nothing may be fetched
    dataset: bool = False  # not a model
    push: bool = False  # not a download
    again: str = AGAIN  # how to go on after a push that failed; said after every error of one, ours too


@contextmanager
def hub_errors(call: Call) -> Iterator[None]:
    """Raise what the table says in place of what is raised within the block, and keep secrets out of logs meanwhile.

    PublishError about a push, DataError about a dataset, else SourceError; what the table does not know passes.
    """
    try:
        with redacted_log(current_token(call.token)):
            yield
    except Exception as error:
        if told := _told(error, call):
            raise told from error
        raise


def explain(error: BaseException, call: Call) -> str | None:
    """What an error of a call means and what to do, on one line; None where the table does not know it."""
    from huggingface_hub import constants

    keys = [*_keys(error)]
    text = next((text for key in keys if (text := TABLE.get(key, (None, None))[call.push]) is not None), None)
    if call.dataset and "HfHubHTTPError" not in keys:
        text = NOT_A_DATASET
    if text == NO_ANSWER and (call.cache_only or constants.is_offline_mode()):
        text = CACHE_ONLY
    response, secret = getattr(error, "response", None), current_token(call.token)
    message = redacted(" ".join((getattr(error, "server_message", None) or "").split())[:200], secret)
    return text and text.format(
        repo=call.repo,
        the="the dataset " if call.dataset else "",
        local="file" if call.dataset else "folder",
        revision=shown(call.revision),
        endpoint=constants.ENDPOINT,
        page=f"{constants.ENDPOINT}/{'datasets/' if call.dataset else ''}{call.repo}",
        status=getattr(response, "status_code", None),
        wait=_wait(response),
        said=f": {message}" if message else "",
        reason=redacted_reason(error, secret),
        kept="" if call.dataset else ": what was fetched is kept",
        again=call.again,
        log_in=LOG_IN,
    )


def transport_error() -> type[Exception]:
    """The root of the HTTP client's errors; which client that is differs between versions of huggingface_hub."""
    from huggingface_hub import errors

    return next(kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


def _keys(error: BaseException) -> Iterator[int | str]:
    """What an error is looked up by, the most exact first."""
    for kind in type(error).__mro__:
        if kind.__name__ == "HfHubHTTPError":
            status = int(error.response.status_code)  # type: ignore[attr-defined]
            yield from (status, 500) if status >= 500 else (status,)
        yield kind.__name__
    if type(error).__module__.startswith("hf_xet"):
        yield "RuntimeError"


def _told(error: Exception, call: Call) -> LayerPruneError | None:
    """The error that is raised instead; None to let it pass."""
    if isinstance(error, LayerPruneError) and not call.push:
        return None
    root = _root(error)
    ours = isinstance(root, LayerPruneError)
    line = str(error) if ours else explain(root, call)
    if line is None:
        return None
    if call.push:
        if call.again != AGAIN and call.again not in line:
            return PublishError(f"{line.removesuffix(AGAIN).rstrip()} {call.again}")
        return None if ours else PublishError(line)
    if call.dataset:
        return DataError(line)
    return _with_suggestion(line, call) if type(root).__name__ == "RepositoryNotFoundError" else SourceError(line)


def _root(error: BaseException) -> BaseException:
    """The error that others were raised from: huggingface_hub wraps some, and this room while a push reads."""
    while (cause := error.__cause__) is not None and not hasattr(error, "response"):  # an answer of the Hub is the root
        if type(error).__name__ in ("LocalEntryNotFoundError", "RevisionResolutionError"):
            wraps = hasattr(cause, "response")
        else:
            wraps = isinstance(error, (RuntimeError, ValueError, SourceError)) and not isinstance(error, UsageError)
        if not wraps:
            break
        error = cause
    return error


def _with_suggestion(line: str, call: Call) -> SourceError:
    """The Hub does not tell whether a repository is missing, private or gated; a sibling's name may help."""
    from huggingface_hub import HfApi

    sibling = f"{call.repo}-Instruct"
    try:
        HfApi().model_info(sibling, token=call.token)
    except (transport_error(), OSError, ValueError):
        return SourceError(line)
    return SourceError(f"{call.repo} is missing, private or gated; {sibling} exists: pass that, or add --yes.", suggestion=sibling)


def _wait(response: Any) -> str:
    """How long to wait, as an answer's headers say."""
    from huggingface_hub import utils

    if response is None:
        return "some minutes"
    hub: Any = utils  # which exports this without saying so to type checkers
    limit = getattr(hub, "parse_ratelimit_headers", lambda headers: None)(response.headers)
    if limit is not None and limit.remaining == 0:
        return f"{int(limit.reset_in_seconds)} seconds"
    found = re.fullmatch(r"\d{1,6}", response.headers.get("Retry-After", "").strip())
    return f"{found[0]} seconds" if found else "some minutes"


def redacted(text: str, *secrets: object) -> str:
    """A text without the given secrets, anything that looks like a token of the Hub, and the queries of addresses."""
    for secret in secrets:
        text = text.replace(secret, "***") if isinstance(secret, str) and secret else text
    return SIGNATURES.sub(r"\1?***", TOKENS.sub("***", text))


def redacted_reason(error: BaseException, *secrets: object) -> str:
    """The first line of an error, redacted."""
    return re.sub(r"\?\S+", "***", redacted(first_line(error), *secrets))


def current_token(token: str | bool | None) -> str | None:
    """The token that is sent: the given one, else that of the environment or of `hf auth login`; none for False."""
    from huggingface_hub import get_token

    return token if isinstance(token, str) else None if token is False else get_token()


@contextmanager
def redacted_log(secret: str | None) -> Iterator[None]:
    """Within the block, what the libraries that talk to the Hub log is redacted before any handler sees it.

    Blocks of several threads may overlap in any order. Only loggers that exist when the block begins are covered.
    """

    def clean(record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage(), secret), ()
        return True

    names = [name for name in [*logging.root.manager.loggerDict] if name.startswith(LOGGERS)]
    loggers = [logging.getLogger(name) for name in names]  # each: a filter of a logger does not see its children's records
    for logger in loggers:
        logger.addFilter(clean)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(clean)
