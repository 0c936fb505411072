"""Keep tokens and signed addresses out of what is said, logged and written."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hf_layerprune.errors import first_line

TOKENS = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")  # names such as hf_layerprune are shorter, and have more underscores
SIGNATURES = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]+")  # what a signed address permits is in its query
# httpx logs each address at INFO, signed ones too; the names match later versions, such as httpx2, as well.
LOGGERS = ("httpx", "httpcore", "huggingface_hub")


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
