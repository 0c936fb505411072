"""What a plan is made from: a statistics file, a pruned folder that holds one, or a model as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import STATISTICS
from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES, LayerStatistics
from hf_layerprune.checkpoint.source import record_of
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.options import quoted
from hf_layerprune.cli.report import model_line
from hf_layerprune.cli.source import open_description, pinned
from hf_layerprune.errors import ArtifactError, shown
from hf_layerprune.families.facts import LINEAGE
from hf_layerprune.families.lookup import find

if TYPE_CHECKING:
    from hf_layerprune.artifacts.model_facts import ModelFacts


def plan_origin(console: Console, origin: str, lookup: Mapping[str, Any]) -> tuple[ModelFacts, LayerStatistics | None]:
    """The model that is to be pruned, and its statistics if there are any."""
    if os.path.isfile(origin):
        return _from_statistics(console, Path(origin))
    checkpoint, _ = open_description(console, origin, **lookup)
    if cut_from := find(checkpoint.config, f"{LINEAGE}.source.fingerprint"):
        kept = record_of(checkpoint, STATISTICS, MAX_STATISTICS_BYTES, local_files_only=lookup["local_files_only"])
        if kept:
            return _from_statistics(console, kept, cut_from)
    console.say(model_line(checkpoint))
    return checkpoint.facts, None


def source_of(origin: str, facts: ModelFacts, statistics: LayerStatistics | None) -> str:
    """How to name the planned model in the next command: statistics know a folder by its last name alone."""
    if statistics is None:
        return quoted(origin) if Path(origin).is_dir() else pinned(facts.source)
    return pinned(facts.source) if facts.source.commit or facts.source.id == "mini" else "SOURCE"


def _from_statistics(console: Console, path: Path, cut_from: str | None = None) -> tuple[ModelFacts, LayerStatistics]:
    """Statistics and their model; ArtifactError unless that has the fingerprint `cut_from`, if it is given."""
    statistics = LayerStatistics.load(path)
    facts = statistics.model
    if cut_from not in (None, facts.source.fingerprint):
        raise ArtifactError(
            f"{path}: statistics of {facts.source.id} with fingerprint {facts.source.fingerprint[:12]}, but the model beside them was cut "
            f"from {shown(cut_from)[1:13]}. Pass the statistics file itself if you want a plan for {facts.source.id}."
        )
    console.say(f"statistics of {facts.source.id} · {facts.family} · {facts.layers} decoder layers x {facts.hidden_size}")
    return facts, statistics
