"""Prove a pruned checkpoint: by its manifest, by its config and, given the source, tensor by tensor against that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, PLAN, RECORDS
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.config import canonical_json, shorten_config
from hf_layerprune.checkpoint.copying import read_blocks, same_blocks
from hf_layerprune.checkpoint.files import read_object
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import DEFAULT_METADATA, kept_names
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.checkpoint.shards import INDEX, MAX_INDEX_BYTES, some
from hf_layerprune.checkpoint.side_files import check_ours, is_of_the_model, list_side_files, sort_files
from hf_layerprune.checkpoint.source import DESCRIPTION, Place, resolve
from hf_layerprune.errors import ArtifactError, CheckpointError, LayerPruneError, SourceError, UsageError, shown
from hf_layerprune.hub.listing import differences, file_record

READERS = 2  # tensors that are compared at once: a disk answers several questions sooner than one after the other


MAX_FETCHED_BYTES = 64 << 20  # of a file outside LFS, where the Hub itself takes 10 MB


@dataclass(frozen=True)
class Verification:
    """What was found."""

    differences: tuple[str, ...]  # one sentence each
    files: int  # compared
    tensors: int  # compared
    changed: int = 0  # tensors that the manifest says a fine-tuning changed, so that only types and shapes are the source's

    @property
    def ok(self) -> bool:
        return not self.differences


def verify(folder: Path, source: Checkpoint | None = None) -> Verification:
    """Compare a pruned or healed checkpoint with its manifest and its config and, if given, with its source.

    With the source nothing that was recorded is believed but the plan and which tensors a fine-tuning changed; the source of a
    healed checkpoint is what was healed, or what that was pruned from. Differences are returned, not raised;
    ArtifactError if the folder has no manifest, or no plan to compare with the source by, that can be read.
    """
    check_ours(folder)
    manifest = Manifest.load(folder / RECORDS / MANIFEST)
    found = list(_against_manifest(folder, manifest))
    if CONFIG not in manifest.files:  # an adapter: files, and no checkpoint
        if source:
            raise ArtifactError(f"{folder} is an adapter, which has no tensor of its source. Verify it without --source.")
        return Verification(tuple(found), len(manifest.files), 0)
    plan = None
    if source and not (manifest.changed and manifest.source.fingerprint == source.source.fingerprint):  # not by a fine-tuning alone
        plan = PruningPlan.load(folder / RECORDS / PLAN)
        plan.for_source(source.source)  # taken under the name that the source had then, as config.json has it
    try:
        written = Checkpoint.open(folder, folder.name)
    except LayerPruneError as error:
        return Verification(tuple(dict.fromkeys((*found, str(error)))), len(manifest.files), 0)
    found += tensor_names(written.tensors.keys(), manifest.tensors.keys(), "the manifest")
    changed = manifest.trained if source and plan is None and manifest.trained else manifest.changed  # since the source, or its source
    if source:
        found += compare(written, source, plan, changed=frozenset(changed), borrowed=manifest.borrowed.keys())
    return Verification(tuple(found), len(manifest.files), len(written.tensors), len(changed))


def verify_remote(id: str, *, revision: str | None = None, token: str | bool | None = None) -> Verification:
    """Compare a pruned model on the Hub with its manifest without its weights: sizes, the sha256 of files in LFS as the repository
    lists them, and of the others as they are fetched; then its headers with its config.

    Differences are returned, not raised; SourceError if the Hub does not answer, ArtifactError if there is no manifest.
    """
    found = resolve(id, Place(revision=revision, token=token), weights=False, small=(*DESCRIPTION, f"{RECORDS}/{MANIFEST}"))
    if (repo := found.repo) is None:
        raise UsageError(f"{id} is a folder, not an id on the Hub.")
    if not (found.path / RECORDS / MANIFEST).is_file():
        raise ArtifactError(f"{id}: has no {RECORDS}/{MANIFEST}, so hf-layerprune did not write it. Pass a model that it pruned.")
    manifest = Manifest.load(found.path / RECORDS / MANIFEST)
    sizes = {name: file.size for name, file in repo.files.items() if is_of_the_model(name)}
    problems = [*differences(manifest.files, sizes, lambda name: repo.record(name, MAX_FETCHED_BYTES))]
    try:
        written = found.open(remote=True)
    except SourceError:
        raise
    except LayerPruneError as error:
        return Verification((*problems, str(error)), len(manifest.files), 0)
    problems += tensor_names(written.tensors.keys(), manifest.tensors.keys(), "the manifest")
    return Verification(tuple(problems), len(manifest.files), len(written.tensors))


def compare(
    written: Checkpoint,
    source: Checkpoint,
    plan: PruningPlan | None,
    *,
    weights: bool = True,
    changed: Set[str] = frozenset(),
    borrowed: Set[str] = frozenset(),
) -> list[str]:
    """The differences between a checkpoint and what `plan` makes of `source`: config, side files, headers, and each tensor's bytes.

    plan: None where nothing is dropped; weights: compare the bytes; without, only names, as when a stream has compared them and
    the source's are gone; changed: tensors of which only type and shape are compared; borrowed: files that the source did not have.
    """
    found = []
    if canonical_json(written.config) != canonical_json(shorten_config(source.config, plan, source.family) if plan else source.config):
        found.append(f"{CONFIG} is not the source's{', shortened by the plan' if plan else ''}")
    names = kept_names(source.family, plan.keep if plan else range(source.facts.layers), source.tensors)
    found += [
        *_descriptions(written, source),
        *tensor_names(written.tensors.keys(), names.keys(), "the plan" if plan else "the source"),
    ]
    pairs = [(new, old) for new, old in names.items() if weights and new in written.tensors]
    spans = [(written.tensors[new], source.tensors[old], new not in changed) for new, old in pairs]
    same = zip(pairs, same_tensors(spans), strict=True)
    found += [f"tensor {shown(new)} is not the source's {shown(old)}" for (new, old), equal in same if not equal]
    for name in sorted(set(list_side_files(written.path)[1]) - written.shards.keys() - {INDEX}):
        found.append(f"{shown(name)} is a weight file that is no part of the checkpoint")
    for path in sorted({*written.side_files, *source.side_files}):
        if path.as_posix() not in borrowed and not _same_file(written.path / path, source.file(path)):
            found.append(f"{shown(str(path))} is not the source's file")
    return found


def _descriptions(written: Checkpoint, source: Checkpoint) -> Iterator[str]:
    """What weight files and their index say of themselves that neither the source nor their tensors account for."""
    known = [DEFAULT_METADATA, *(header.metadata or {} for header in source.shards.values())]
    for name, header in written.shards.items():
        if any(all(other.get(key) != value for other in known) for key, value in (header.metadata or {}).items()):
            yield f"'__metadata__' of {shown(name)} is not the source's"
    if (written.path / INDEX).is_file():
        index = read_object(written.path, INDEX, "weight index", MAX_INDEX_BYTES, "Write it again.")
        size = sum(span.nbytes for span in written.tensors.values())
        if index.keys() != {"metadata", "weight_map"} or canonical_json(index["metadata"]) != canonical_json({"total_size": size}):
            yield f"{INDEX} holds more than the places and the size of the tensors"


def _against_manifest(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What tells the files of a folder apart from its manifest's, and what no checkpoint may hold. Reads all weights once."""

    def record(name: str) -> FileRecord:
        try:
            return file_record(folder / name)
        except OSError as error:
            raise CheckpointError(f"cannot read it: {error.strerror}. {to_read(error)}") from error

    side_files, weights, refused = sort_files(folder)
    yield from refused.values()
    found = {name: folder / name for name in (*weights, *map(Path.as_posix, side_files), CONFIG)}
    files = {name: path.stat().st_size for name, path in found.items() if path.is_file()}
    others = {name: 0 for name, path in found.items() if os.path.lexists(path) and name not in manifest.files}
    yield from differences({name: wanted for name, wanted in manifest.files.items() if name not in refused}, {**others, **files}, record)


def tensor_names(found: Set[str], expected: Set[str], what: str) -> list[str]:
    """The differences between the tensors that were found and those that `what` has."""
    problems = ((f"missing, though {what} has them", expected - found), (f"unexpected: not in {what}", found - expected))
    return [f"tensors are {problem}, {some(names)}" for problem, names in problems if names]


def same_tensors(pairs: Sequence[tuple[TensorSpan, TensorSpan, bool]]) -> list[bool]:
    """For each pair of tensors on disk, a written one first, whether they have one type and one shape and, where asked for, the same bytes.

    Several are compared at once. What was written is asked of the disk, not of the memory that wrote it.
    """
    stopped = threading.Event()

    def same(pair: tuple[TensorSpan, TensorSpan, bool]) -> bool:
        written, source, whole = pair
        if (written.dtype, written.shape) != (source.dtype, source.shape):
            return False
        try:
            on_disk = read_blocks(written.file, written.begin, written.end)
            original = read_blocks(source.file, source.begin, source.end)
            return not whole or same_blocks(on_disk, original, stopped)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(READERS) as readers:
        try:
            return list(readers.map(same, pairs))
        except RuntimeError:  # no more threads to be had
            return list(map(same, pairs))
        finally:
            stopped.set()  # after an interrupt, too, nobody reads the other tensors to their ends


def _same_file(written: Path, source: Path) -> bool:
    if not written.is_file() or not source.is_file() or written.stat().st_size != source.stat().st_size:
        return False
    size = source.stat().st_size
    return same_blocks(read_blocks(written, 0, size), read_blocks(source, 0, size))
