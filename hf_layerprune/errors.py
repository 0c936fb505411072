"""What can go wrong, one class per room. The message is one line: what, where, what was expected, what to do."""

from __future__ import annotations

import re

TOKENS = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")  # names such as hf_layerprune are shorter, and have more underscores
SIGNATURES = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]+")  # what a signed address lets one do is in its query


class LayerPruneError(Exception):
    """The root of every error that this package raises on purpose; the command line prints it and exits with 1."""


class UsageError(LayerPruneError, ValueError):
    """An option or argument that cannot be honoured, whatever the files hold; the command line exits with 2."""


class ArtifactError(LayerPruneError):
    """A statistics, plan, manifest or record file that is damaged, foreign or newer than this version."""


class FamilyError(LayerPruneError):
    """An architecture or a configuration that is not declared in `families/`."""


class CheckpointError(LayerPruneError):
    """A checkpoint that cannot be read, rewritten or proved."""


class SourceError(CheckpointError):
    """A source that cannot be found; `suggestion` is an id that exists instead, if one was found."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


class StrategyError(LayerPruneError):
    """A strategy that cannot be loaded, cannot reach the budget, or returned something that is no selection."""


class ModelError(LayerPruneError):
    """A model or processor that cannot be loaded, or does not run."""


class DataError(LayerPruneError):
    """Pictures or records that cannot be read, or of which too many are bad."""


class ProbeError(LayerPruneError):
    """A probe set that cannot be used, or activations that are no numbers."""


class HealingError(LayerPruneError):
    """A fine-tuning that cannot start, go on, or be written."""


class EvaluationError(LayerPruneError):
    """A task that cannot be asked, answers that cannot be kept, or an evaluation that cannot be written."""


class PublishError(LayerPruneError):
    """A model card that cannot be written, or a checkpoint that may not or cannot be pushed."""


def shown(value: object) -> str:
    """A stranger's value as an error shows it: its repr on one line, at most 120 characters of it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-36:]}"


def hub_refusal(status: int, page: str, kept: str = "") -> str:
    """What an HTTP status of the Hub means for somebody who reads from it; kept: what to add where running again is no loss."""
    if status == 401:
        return "the Hub did not accept the token. Log in again (hf auth login)."
    if status == 403:
        return f"the Hub refuses access. Accept the terms at {page}, or use a token that may read it (hf auth login)."
    if status == 429:
        return f"the Hub asks for fewer requests. Wait some minutes and run again{kept}."
    return f"the Hub answered with error {status}. Try again later{kept}."


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, on one line: the system's words, else the first line that is not empty, else its kind."""
    said = getattr(error, "strerror", None) or next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (str(said) or type(error).__name__)[:300].rstrip(".")


def redacted(text: str, *secrets: object) -> str:
    """A text without the given secrets, anything that looks like a token of the Hub, and the queries of addresses."""
    for secret in secrets:
        text = text.replace(secret, "***") if isinstance(secret, str) and secret else text
    return SIGNATURES.sub(r"\1?***", TOKENS.sub("***", text))


def reason_without_secrets(error: BaseException, token: str | bool | None) -> str:
    """The first line of an error, without anything that is, or looks like, a token or a signed address."""
    return re.sub(r"\?\S+", "***", redacted(first_line(error), token))
