"""What the Hub's answers about a dataset mean: one line each, with the next step, and never a token in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hf_layerprune.errors import DataError, hub_refusal, reason_without_secrets, shown


@contextmanager
def dataset_errors(repo: str, revision: str | None, token: str | bool | None) -> Iterator[None]:
    """Turn what huggingface_hub and datasets raise within the block into DataError about the dataset `repo`."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/datasets/{repo}"
    try:
        yield
    except DataError:
        raise
    except errors.GatedRepoError as error:
        raise DataError(f"{repo} is gated: accept its terms at {page}, then log in (hf auth login).") from error
    except errors.RepositoryNotFoundError as error:
        remedy = f"Check the name, log in (hf auth login), or accept its terms at {page}."
        raise DataError(f"the dataset {repo} is missing, private or gated, and no file of that name exists here. {remedy}") from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{repo} has no revision {shown(revision)}. Its branches and tags are listed at {page}/tree/main.") from error
    except errors.HfHubHTTPError as error:
        raise DataError(f"{repo}: {hub_refusal(error.response.status_code, page)}") from error
    except Exception as error:  # datasets, its readers and the HTTP client raise of many kinds
        raise DataError(
            f"{repo}: cannot be read as a dataset: {reason_without_secrets(error, token)}. If the network failed, run again."
        ) from error


def not_kept(repo: str) -> DataError:
    """The error for a dataset that is asked for offline and was never drawn online."""
    remedy = "Draw it once online with the same options and seed, without --local-files-only and HF_HUB_OFFLINE."
    return DataError(f"{repo} is not in the cache as asked for. {remedy}")
