"""Prove a pruned checkpoint: by its manifest, by its config and, given the source, tensor by tensor against that."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, PLAN, RECORDS
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.config import shorten_config
from hf_layerprune.checkpoint.copying import hash_file, read_blocks, same_blocks
from hf_layerprune.checkpoint.fingerprint import canonical_json
from hf_layerprune.checkpoint.folder import read_object
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import DEFAULT_METADATA, kept_names
from hf_layerprune.checkpoint.shards import INDEX, MAX_INDEX_BYTES, some
from hf_layerprune.checkpoint.side_files import check_ours, list_side_files, sort_files
from hf_layerprune.errors import ArtifactError, CheckpointError, LayerPruneError, shown
from hf_layerprune.hub.prove import described

READERS = 2  # tensors that are compared at once: a disk answers several questions sooner than one after the other


@dataclass(frozen=True)
class Verification:
    """What was found: differences, one sentence each; how many files and tensors were compared; changed: how many of these tensors
    a fine-tuning gave new values, as the manifest says, so that only their types and shapes are the source's."""

    differences: tuple[str, ...]
    files: int
    tensors: int
    changed: int = 0

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
    differences = list(_against_manifest(folder, manifest))
    if CONFIG not in manifest.files:  # an adapter: files, and no checkpoint
        if source:
            raise ArtifactError(f"{folder} is an adapter, which has no tensor of its source. Verify it without --source.")
        return Verification(tuple(differences), len(manifest.files), 0)
    plan = _plan(folder, manifest, source) if source else None
    try:
        written = Checkpoint.open(folder, folder.name)
    except LayerPruneError as error:
        return Verification(tuple(dict.fromkeys((*differences, str(error)))), len(manifest.files), 0)
    differences += tensor_names(written.tensors.keys(), manifest.tensors.keys(), "the manifest")
    changed = manifest.trained if source and plan is None and manifest.trained else manifest.changed  # since the source, or its source
    if source:
        differences += compare(written, source, plan, changed=frozenset(changed))
    return Verification(tuple(differences), len(manifest.files), len(written.tensors), len(changed))


def _plan(folder: Path, manifest: Manifest, source: Checkpoint) -> PruningPlan | None:
    """How the folder came from `source`: by a plan, or by a fine-tuning alone."""
    if manifest.changed and manifest.source.fingerprint == source.source.fingerprint:
        return None
    plan = PruningPlan.load(folder / RECORDS / PLAN)
    plan.for_source(source.source)
    return plan  # under the name that the source had then, as config.json has it


def compare(
    written: Checkpoint, source: Checkpoint, plan: PruningPlan | None, *, weights: bool = True, changed: Set[str] = frozenset()
) -> list[str]:
    """The differences between a checkpoint and what `plan` makes of `source`: config, side files, headers, and each tensor's bytes.

    plan: None where nothing is dropped; weights: compare the bytes; without, only names, as when a stream has compared them and
    the source's are gone; changed: tensors of which only type and shape are compared.
    """
    differences = []
    if canonical_json(written.config) != canonical_json(shorten_config(source.config, plan, source.family) if plan else source.config):
        differences.append(f"{CONFIG} is not the source's{', shortened by the plan' if plan else ''}")
    names = kept_names(source.family, plan.keep if plan else range(source.facts.layers), source.tensors)
    differences += [
        *_descriptions(written, source),
        *tensor_names(written.tensors.keys(), names.keys(), "the plan" if plan else "the source"),
    ]
    pairs = [(new, old) for new, old in names.items() if weights and new in written.tensors]
    spans = [(written.tensors[new], source.tensors[old], new not in changed) for new, old in pairs]
    same = zip(pairs, same_tensors(spans), strict=True)
    differences += [f"tensor {shown(new)} is not the source's {shown(old)}" for (new, old), equal in same if not equal]
    for name in sorted(set(list_side_files(written.path)[1]) - written.shards.keys() - {INDEX}):
        differences.append(f"{shown(name)} is a weight file that is no part of the checkpoint")
    for path in sorted({*written.side_files, *source.side_files}):
        if not _same_file(written.path / path, source.path / path):
            differences.append(f"{shown(str(path))} is not the source's file")
    return differences


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
    side_files, weights, refused = sort_files(folder)
    yield from refused.values()
    config = {CONFIG} if (folder / CONFIG).exists() else set()
    found = config | {*weights, *(path.as_posix() for path in side_files)}
    for name in sorted(found - manifest.files.keys()):
        yield f"{shown(name)} is not in the manifest"
    for name, record in manifest.files.items():
        if name in refused:
            continue
        if name not in found or not (folder / name).is_file():
            yield f"{shown(name)} is missing"
        else:
            try:
                actual = hash_file(folder / name)
            except CheckpointError as error:
                yield str(error)
                continue
            if actual != record:
                yield f"{shown(name)} is {described(actual)}, expected {described(record)}"


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
