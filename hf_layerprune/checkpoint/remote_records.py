"""The records that are published with a pruned model, in `layerprune/`: fetched one by one, none larger than it may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_layerprune.artifacts.folder import RECORDS
from hf_layerprune.checkpoint.copying import hash_file
from hf_layerprune.checkpoint.remote import RemoteRepo
from hf_layerprune.checkpoint.remote_files import AGAIN, is_listed
from hf_layerprune.errors import CheckpointError

if TYPE_CHECKING:
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.source import ResolvedSource


def record_of(model: ResolvedSource | Checkpoint, name: str, limit: int, *, local_files_only: bool = False) -> Path | None:
    """A record of a model; that of a Hub id is fetched if the cache lacks it. None where there is none.

    SourceError if the Hub does not give it, CheckpointError if it has more than `limit` bytes.
    """
    from huggingface_hub import constants

    if (local := model.path / RECORDS / name).is_file():
        return local
    if model.commit is None or local_files_only or constants.is_offline_mode():
        return None
    repo = RemoteRepo(model.id, model.commit)
    if (file := repo.files.get(f"{RECORDS}/{name}")) is None:
        return None
    if file.size > limit:
        raise CheckpointError(f"{file.where}: {file.size:,} bytes is no record; at most {limit:,} are read.")
    path = repo.fetch(file.name)
    if not is_listed(path, hash_file(path), file):
        raise CheckpointError(f"{file.where}: was fetched as another file than the repository lists. {AGAIN}")
    return path
