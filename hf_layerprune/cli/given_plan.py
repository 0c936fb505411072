"""The plan that `apply` carries out: a file, or that of a pruned model, which is then built again and proved equal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.healing_record import HEALING, HealingRecord
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES, STATISTICS
from hf_layerprune.checkpoint.config import CONFIG
from hf_layerprune.checkpoint.remote_records import record_of
from hf_layerprune.checkpoint.side_files import MANIFEST, PLAN, RECORDS
from hf_layerprune.checkpoint.source import ResolvedSource, resolve
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.journey import statistics_record
from hf_layerprune.cli.source import is_hub_id
from hf_layerprune.errors import ArtifactError, UsageError


@dataclass(frozen=True)
class GivenPlan:
    """records: what lies beside the plan; manifest: of the model that is to be built again, None for a plan alone and for a healed
    model; healed: the fingerprint of what was healed, None for a plan alone and for a model as it was pruned; name: how it is said."""

    plan: PruningPlan
    records: Mapping[str, bytes]
    manifest: Manifest | None
    healed: str | None
    name: str


def load_plan(console: Console, named: str, local_files_only: bool) -> GivenPlan:
    """Read a plan file, or the records of a pruned model in a folder or on the Hub, there also OWNER/REPO@REVISION.

    Raises ArtifactError or SourceError.
    """
    if not os.path.isdir(named) and not is_hub_id(named):
        return GivenPlan(PruningPlan.load(named), {}, None, None, named)
    wanted = (CONFIG, *(f"{RECORDS}/{name}" for name in (PLAN, MANIFEST, HEALING)))
    repo, _, revision = (named, "", "") if os.path.isdir(named) else named.partition("@")
    found = resolve(repo, revision=revision or None, weights=False, small=wanted, local_files_only=local_files_only)
    folder = found.path / RECORDS
    if not (folder / PLAN).is_file():
        raise ArtifactError(f"{named}: has no {RECORDS}/{PLAN}, so hf-layerprune did not prune it. Pass a plan, or a model that has one.")
    plan = PruningPlan.load(folder / PLAN)
    healing = HealingRecord.load(folder / HEALING) if (folder / HEALING).is_file() else None
    if healing:
        console.note(f"note: {named} was healed after pruning: its pruned stage is built again; healing.json says the rest")
    manifest = None if healing else Manifest.load(folder / MANIFEST)
    name = repo + (f" @ {found.commit[:7]}" if found.commit else "")
    healed = healing.checkpoint.fingerprint if healing else None
    return GivenPlan(plan, _statistics(found, plan, local_files_only), manifest, healed, name)


def as_published(writing: Mapping[str, Any], given: GivenPlan) -> dict[str, Any]:
    """The options of writing that change for a model that is built again: it has the shards that were published."""
    if given.manifest is None:
        return {}
    if writing["max_shard_size"]:
        raise UsageError(f"--max-shard-size: the shards are those of {given.name}, to be compared with them. Leave it out.")
    return {"max_shard_size": None if given.manifest.shard_policy == "source" else given.manifest.shard_policy}


def _statistics(found: ResolvedSource, plan: PruningPlan, local_files_only: bool) -> dict[str, bytes]:
    """What the plan was made from, where it is published; the weights are the same without."""
    if plan.statistics is None:
        return {}
    path = record_of(found, STATISTICS, MAX_STATISTICS_BYTES, local_files_only=local_files_only)
    return statistics_record(plan, path) if path else {}
