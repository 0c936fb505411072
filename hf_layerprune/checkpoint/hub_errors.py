"""What the Hub's answers mean for the person who asked: one line each, with the next step, and never a token in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hf_layerprune.checkpoint.redacted_log import redacted_log
from hf_layerprune.errors import SourceError, hub_refusal, reason_without_secrets, shown


@contextmanager
def hub_errors(repo: str, revision: str | None, local_files_only: bool, token: str | bool | None) -> Iterator[None]:
    """Turn what huggingface_hub raises within the block into SourceError about the repository `repo`, and keep secrets out of logs."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    try:
        with redacted_log(token if isinstance(token, str) else None):
            yield
    except errors.GatedRepoError as error:
        raise SourceError(f"{repo} is gated: accept its terms at {page}, then log in (hf auth login).") from error
    except errors.RepositoryNotFoundError as error:
        raise _missing(repo, page, token) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{repo} has no revision {shown(revision)}. Its branches and tags are listed at {page}/tree/main.") from error
    except (errors.LocalEntryNotFoundError, errors.RevisionResolutionError, errors.OfflineModeIsEnabled) as error:
        if local_files_only or constants.is_offline_mode():
            remedy = "Fetch it once online, without --local-files-only and HF_HUB_OFFLINE."
            raise SourceError(f"{repo} is not, or not wholly, in the cache. {remedy}") from error
        raise SourceError(
            f"{repo} cannot be fetched: the Hub ({constants.ENDPOINT}) does not answer, and the cache has no complete copy. "
            "Try again later, or on a machine with network; --local-files-only uses a copy in the cache."
        ) from error
    except errors.HfHubHTTPError as error:
        raise SourceError(f"{repo}: {hub_refusal(error.response.status_code, page, ': what was fetched is kept')}") from error
    except (transport_error(), OSError) as error:
        raise SourceError(
            f"{repo}: fetching it failed: {reason_without_secrets(error, token)}. Run again: what was fetched is kept."
        ) from error


def _missing(repo: str, page: str, token: str | bool | None) -> SourceError:
    """The Hub does not tell a stranger whether a repository is missing, private or gated; a sibling's name may help."""
    from huggingface_hub import HfApi

    sibling = f"{repo}-Instruct"
    try:
        HfApi().model_info(sibling, token=token)
    except (transport_error(), OSError, ValueError):
        return SourceError(
            f"{repo} is missing, private or gated, and no folder of that name exists here. Check the name, log in (hf auth login), "
            f"or accept its terms at {page}."
        )
    return SourceError(f"{repo} is missing, private or gated; {sibling} exists: pass that, or add --yes.", suggestion=sibling)


def transport_error() -> type[Exception]:
    """The root of the HTTP client's errors; which client that is differs between versions of huggingface_hub."""
    from huggingface_hub import errors

    return next(kind for kind in errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
