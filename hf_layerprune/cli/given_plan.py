"""The plan that `apply` carries out: a file, or that of a pruned model, which is then built again and proved equal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.folder import CONFIG, HEALING, MANIFEST, PLAN, PROVENANCE, RECORDS, STATISTICS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.model_facts import PRUNED
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES
from hf_layerprune.checkpoint.copying import hash_file
from hf_layerprune.checkpoint.folder import regular_file
from hf_layerprune.checkpoint.provenance import ancestors_of
from hf_layerprune.checkpoint.shards import MAX_INDEX_BYTES
from hf_layerprune.checkpoint.side_files import is_of_the_model, is_weights, list_side_files
from hf_layerprune.checkpoint.source import ResolvedSource, record_of, resolve
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.journey import statistics_record
from hf_layerprune.cli.source import at_revision, on_the_hub
from hf_layerprune.errors import ArtifactError, CheckpointError, SourceError, UsageError
from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.hub.prove import differences, listed_record

ADAPTER = "adapter_config.json"  # makes transformers load other weights than those beside it
PLAN_ALONE = "Do not use it; to build from its plan without a proof, pass its layerprune/plan.json as a file."


@dataclass(frozen=True)
class GivenPlan:
    """records: what lies beside the plan; manifest: of the model that is to be built again, None for a plan alone and for a healed
    model; compared: whether the weights themselves were found to be what that manifest says; healed: the fingerprint of the
    pruned stage of a healed one, None for a plan alone and for a model as it was pruned; name: how it is said."""

    plan: PruningPlan
    records: Mapping[str, bytes]
    manifest: Manifest | None
    compared: bool
    healed: str | None
    name: str


def load_plan(console: Console, named: str, local_files_only: bool) -> GivenPlan:
    """Read a plan file, or the records of a pruned model in a folder or on the Hub, there also OWNER/REPO@REVISION.

    Raises ArtifactError or SourceError, and CheckpointError naming the first weight file that is not what its manifest says.
    """
    repo, revision = at_revision(named)
    if not os.path.isdir(named) and not on_the_hub(repo):
        return GivenPlan(PruningPlan.load(named), {}, None, False, None, named)
    wanted = (CONFIG, *(f"{RECORDS}/{name}" for name in (PLAN, MANIFEST, HEALING, PROVENANCE)))
    found = resolve(repo, revision=revision, weights=False, small=wanted, local_files_only=local_files_only)
    folder = found.path / RECORDS
    if not (folder / PLAN).is_file():
        raise ArtifactError(f"{named}: has no {RECORDS}/{PLAN}, so hf-layerprune did not prune it. Pass a plan, or a model that has one.")
    plan = PruningPlan.load(folder / PLAN)
    healing = HealingRecord.load(folder / HEALING) if (folder / HEALING).is_file() else None
    if healing:
        console.note(f"note: {named} was healed after pruning: its pruned stage is built again; healing.json says the rest")
    written = Manifest.load(folder / MANIFEST)
    manifest = None if healing else written
    name = repo + (f" @ {found.commit[:7]}" if found.commit else "")
    stages = [step.source.fingerprint for step in ancestors_of(folder, written) if step.how == PRUNED]
    healed = (stages or [healing.checkpoint.fingerprint])[-1] if healing else None
    compared = manifest is not None and _compare(found, manifest, name, local_files_only)
    return GivenPlan(plan, _statistics(found, plan, local_files_only), manifest, compared, healed, name)


def as_published(writing: Mapping[str, Any], given: GivenPlan) -> dict[str, Any]:
    """The options of writing that change for a model that is built again: it has the shards that were published."""
    if given.manifest is None:
        return {}
    if writing["max_shard_size"]:
        raise UsageError(f"--max-shard-size: the shards are those of {given.name}, to be compared with them. Leave it out.")
    return {"max_shard_size": None if given.manifest.shard_policy == "source" else given.manifest.shard_policy}


def _compare(found: ResolvedSource, manifest: Manifest, name: str, local_files_only: bool) -> bool:
    """CheckpointError naming the first weight file that is not what the manifest beside it says; False where the Hub cannot be asked."""
    if found.commit is None:
        side_files, weights = list_side_files(found.path)
        here = [*weights, *(path.as_posix() for path in side_files)]
        sizes = {file: (found.path / file).stat().st_size for file in here}
        _refuse_difference(manifest, sizes, lambda file: hash_file(regular_file(found.path, file, PLAN_ALONE)), name)
        return True
    repo = RemoteRepo(found.id, found.commit)
    if (listed := _listed(repo, local_files_only)) is None:
        return False
    _refuse_difference(manifest, listed, lambda file: listed_record(repo, file, MAX_INDEX_BYTES), name)
    return True


def _listed(repo: RemoteRepo, local_files_only: bool) -> dict[str, int] | None:
    """The files that the repository lists, and their sizes; None where there is no network, or it is not to be used."""
    from huggingface_hub import constants

    if local_files_only or constants.is_offline_mode():
        return None
    try:
        return {name: file.size for name, file in repo.files.items()}
    except SourceError as error:
        if error.__cause__ is None or hasattr(error.__cause__, "response"):  # the Hub answered, and refused
            raise
        return None


def _refuse_difference(manifest: Manifest, there: Mapping[str, int], record: Callable[[str], FileRecord], name: str) -> None:
    expected = {file: wanted for file, wanted in manifest.files.items() if _is_loaded(file)}
    sizes = {file: size for file, size in there.items() if _is_loaded(file)}
    if difference := next(differences(expected, sizes, record), None):
        raise CheckpointError(f"{name}: {difference}, so it is not what its plan makes. {PLAN_ALONE}")


def _is_loaded(file: str) -> bool:
    return file == ADAPTER or (is_weights(file) and is_of_the_model(file))


def _statistics(found: ResolvedSource, plan: PruningPlan, local_files_only: bool) -> dict[str, bytes]:
    """What the plan was made from, where it is published; the weights are the same without."""
    if plan.statistics is None:
        return {}
    path = record_of(found, STATISTICS, MAX_STATISTICS_BYTES, local_files_only=local_files_only)
    return statistics_record(plan, path) if path else {}
