"""Prove a pruned checkpoint on the Hub by its published manifest, without downloading its weights."""

from __future__ import annotations

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.remote_shards import open_remote
from hf_layerprune.checkpoint.side_files import is_of_the_model
from hf_layerprune.checkpoint.source import DESCRIPTION, resolve
from hf_layerprune.checkpoint.verify import Verification, tensor_names
from hf_layerprune.errors import ArtifactError, LayerPruneError, SourceError, UsageError
from hf_layerprune.hub.prove import differences, listed_record

MAX_FETCHED_BYTES = 64 << 20  # of a file outside LFS, where the Hub itself takes 10 MB


def verify_remote(id: str, *, revision: str | None = None, token: str | bool | None = None) -> Verification:
    """Compare a pruned model on the Hub with its manifest: sizes, the sha256 of files in LFS as the repository lists them, and of
    the others as they are fetched; then its headers with its config.

    Differences are returned, not raised; SourceError if the Hub does not answer, ArtifactError if there is no manifest.
    """
    found = resolve(id, revision=revision, token=token, weights=False, small=(*DESCRIPTION, f"{RECORDS}/{MANIFEST}"))
    if (repo := found.repo) is None:
        raise UsageError(f"{id} is a folder, not an id on the Hub.")
    if not (found.path / RECORDS / MANIFEST).is_file():
        raise ArtifactError(f"{id}: has no {RECORDS}/{MANIFEST}, so hf-layerprune did not write it. Pass a model that it pruned.")
    manifest = Manifest.load(found.path / RECORDS / MANIFEST)
    sizes = {name: file.size for name, file in repo.files.items() if is_of_the_model(name)}
    problems = [*differences(manifest.files, sizes, lambda name: listed_record(repo, name, MAX_FETCHED_BYTES))]
    try:
        written = open_remote(repo, found)
    except SourceError:
        raise
    except LayerPruneError as error:
        return Verification((*problems, str(error)), len(manifest.files), 0)
    problems += tensor_names(written.tensors.keys(), manifest.tensors.keys(), "the manifest")
    return Verification(tuple(problems), len(manifest.files), len(written.tensors))
