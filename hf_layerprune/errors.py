"""What can go wrong, one class per room. The message is one line: what, where, what was expected, what to do."""

from __future__ import annotations


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
    """Images or records that cannot be read, or of which too many are unusable."""


class ProbeError(LayerPruneError):
    """A probe set that cannot be used, or activations that are no numbers."""


class HealingError(LayerPruneError):
    """A fine-tuning that cannot start, go on, or be written."""


class EvaluationError(LayerPruneError):
    """A task that cannot be asked, answers that cannot be kept, or an evaluation that cannot be written."""


class PublishError(LayerPruneError):
    """A model card that cannot be written, or a checkpoint that may not or cannot be pushed."""


def shown(value: object) -> str:
    """An untrusted value as an error shows it: its repr on one line, at most 120 characters of it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-36:]}"


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, on one line: the system's words, else the first line that is not empty, else its kind."""
    said = getattr(error, "strerror", None) or next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (str(said) or type(error).__name__)[:300].rstrip(".")
