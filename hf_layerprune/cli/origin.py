"""What a plan is made from: a statistics file, a pruned folder that holds one, or a model as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.report import model_line
from hf_layerprune.cli.source import named_again, open_source, pinned

if TYPE_CHECKING:
    from hf_layerprune.artifacts.model_facts import ModelFacts


def plan_origin(console: Console, origin: str, lookup: Mapping[str, Any]) -> tuple[ModelFacts, LayerStatistics | None]:
    """The model that is to be pruned, and its statistics if there are any."""
    if os.path.isfile(origin):
        return _from_statistics(console, Path(origin))
    checkpoint = open_source(console, origin, **lookup)
    kept = checkpoint.path / "layerprune" / "statistics.safetensors"
    if kept.is_file():
        return _from_statistics(console, kept)
    console.say(model_line(checkpoint))
    return checkpoint.facts, None


def source_of(origin: str, facts: ModelFacts, statistics: LayerStatistics | None) -> str:
    """How to name the planned model in the next command: statistics know a folder by its last name alone."""
    if statistics is None:
        return named_again(origin, facts.source)
    return pinned(facts.source) if facts.source.commit or facts.source.id == "mini" else "SOURCE"


def _from_statistics(console: Console, path: Path) -> tuple[ModelFacts, LayerStatistics]:
    statistics = LayerStatistics.load(path)
    facts = statistics.model
    console.say(f"statistics of {facts.source.id} · {facts.family} · {facts.layers} decoder layers x {facts.hidden_size}")
    return facts, statistics
