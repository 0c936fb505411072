"""Prove a pruned checkpoint on the Hub by its published manifest, without downloading its weights."""

from __future__ import annotations

from collections.abc import Iterator

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.checkpoint.copying import hash_file
from hf_layerprune.checkpoint.remote import RemoteRepo
from hf_layerprune.checkpoint.remote_files import RemoteFile, git_id
from hf_layerprune.checkpoint.remote_shards import open_remote
from hf_layerprune.checkpoint.side_files import is_of_the_model
from hf_layerprune.checkpoint.source import DESCRIPTION, resolve
from hf_layerprune.checkpoint.verify import Verification, described, tensor_names
from hf_layerprune.errors import ArtifactError, LayerPruneError, SourceError, UsageError, shown

MAX_FETCHED_BYTES = 64 << 20  # of a file outside LFS, where the Hub itself takes 10 MB


def verify_remote(id: str, *, revision: str | None = None, token: str | bool | None = None) -> Verification:
    """Compare a pruned model on the Hub with its manifest: sizes, the sha256 of files in LFS as the repository lists them, and of
    the others as they are fetched; then its headers with its config.

    Differences are returned, not raised; SourceError if the Hub does not answer, ArtifactError if there is no manifest.
    """
    found = resolve(id, revision=revision, token=token, weights=False, small=(*DESCRIPTION, f"{RECORDS}/{MANIFEST}"))
    if found.commit is None:
        raise UsageError(f"{id} is a folder, not an id on the Hub.")
    if not (found.path / RECORDS / MANIFEST).is_file():
        raise ArtifactError(f"{id}: has no {RECORDS}/{MANIFEST}, so hf-layerprune did not write it. Pass a model that it pruned.")
    manifest, repo = Manifest.load(found.path / RECORDS / MANIFEST), RemoteRepo(id, found.commit, token=token)
    differences = list(_against_manifest(repo, manifest))
    try:
        written = open_remote(repo, found)
    except SourceError:
        raise
    except LayerPruneError as error:
        return Verification((*differences, str(error)), len(manifest.files), 0)
    differences += tensor_names(written.tensors.keys(), manifest.tensors.keys(), "the manifest")
    return Verification(tuple(differences), len(manifest.files), len(written.tensors))


def _against_manifest(repo: RemoteRepo, manifest: Manifest) -> Iterator[str]:
    listed = {name: file for name, file in repo.files.items() if is_of_the_model(name)}
    for name in sorted(listed.keys() - manifest.files.keys()):
        yield f"{shown(name)} is not in the manifest"
    for name, record in manifest.files.items():
        if (file := listed.get(name)) is None:
            yield f"{shown(name)} is missing"
        elif file.size != record.bytes:
            yield f"{shown(name)} is {file.size:,} bytes, expected {described(record)}"
        elif file.sha256 is None:
            yield from _fetched(repo, file, record)
        elif file.sha256 != record.sha256:
            yield f"{shown(name)} is {described(FileRecord(file.size, file.sha256))}, expected {described(record)}"


def _fetched(repo: RemoteRepo, file: RemoteFile, record: FileRecord) -> Iterator[str]:
    """Of a file outside LFS git lists another sum: it is fetched, which must give that one, and hashed."""
    if file.size > MAX_FETCHED_BYTES:
        yield f"{shown(file.name)} is {file.size:,} bytes and not in LFS: more than is fetched to compare it"
        return
    path = repo.fetch(file.name)
    if git_id(path) != file.blob:
        yield f"{shown(file.name)} was fetched as another file than the repository lists, git id {file.blob[:12]}"
    elif (actual := hash_file(path)) != record:
        yield f"{shown(file.name)} is {described(actual)}, expected {described(record)}"
