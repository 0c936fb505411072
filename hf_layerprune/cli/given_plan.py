"""The plan that `apply` carries out: a file, or that of a pruned model, which is then built again and proved equal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES
from hf_layerprune.checkpoint.config import CONFIG
from hf_layerprune.checkpoint.remote_records import record_of
from hf_layerprune.checkpoint.side_files import MANIFEST, PLAN, RECORDS
from hf_layerprune.checkpoint.source import ResolvedSource, resolve
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.journey import statistics_record
from hf_layerprune.cli.source import is_hub_id
from hf_layerprune.errors import ArtifactError, UsageError

HEALING = "healing.json"
STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class GivenPlan:
    """records: what lies beside the plan; manifest: of the model that is to be built again, None for a plan alone; name: how it is said."""

    plan: PruningPlan
    records: Mapping[str, bytes]
    manifest: Manifest | None
    name: str


def load_plan(console: Console, named: str, local_files_only: bool) -> GivenPlan:
    """Read a plan file, or the records of a pruned model in a folder or on the Hub. ArtifactError or SourceError otherwise."""
    if not os.path.isdir(named) and not is_hub_id(named):
        return GivenPlan(PruningPlan.load(named), {}, None, named)
    wanted = (CONFIG, *(f"{RECORDS}/{name}" for name in (PLAN, MANIFEST, HEALING)))
    found = resolve(named, weights=False, small=wanted, local_files_only=local_files_only)
    folder = found.path / RECORDS
    if not (folder / PLAN).is_file():
        raise ArtifactError(f"{named}: has no {RECORDS}/{PLAN}, so hf-layerprune did not prune it. Pass a plan, or a model that has one.")
    plan = PruningPlan.load(folder / PLAN)
    healed = (folder / HEALING).is_file()
    if healed:
        console.note(f"note: {named} was healed after pruning: its pruned stage is built again, which cannot be proved by its weights")
    manifest = None if healed else Manifest.load(folder / MANIFEST)
    name = named + (f" @ {found.commit[:7]}" if found.commit else "")
    return GivenPlan(plan, _statistics(found, plan, local_files_only), manifest, name)


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
