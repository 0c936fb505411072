"""Keep finished and interrupted statistics in a folder, so that a second method or budget need not probe again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.statistics import STATISTICS_FORMAT, LayerStatistics
from hf_layerprune.errors import ArtifactError


@dataclass(frozen=True)
class StatisticsStore:
    """The place in a folder of one model's statistics over one probe set. What cannot be read there counts as absent."""

    folder: Path
    key: str

    @classmethod
    def of(cls, folder: Path, model_fingerprint: str, probe_fingerprint: str, settings: Mapping[str, Any]) -> StatisticsStore:
        """settings: what decides the numbers besides model and probe set, as JSON values."""
        content = [STATISTICS_FORMAT, model_fingerprint, probe_fingerprint, dict(settings)]
        return cls(folder, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32])

    def finished(self) -> LayerStatistics | None:
        return _read(self.folder / f"{self.key}.safetensors")

    def partial(self) -> LayerStatistics | None:
        """What an interrupted probe had measured; its record's `probe_set` says under "done" how many pictures that are."""
        return _read(self._partial)

    def keep_partial(self, statistics: LayerStatistics) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        statistics.save(self._partial)

    def keep_finished(self, statistics: LayerStatistics) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        statistics.save(self.folder / f"{self.key}.safetensors")
        self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self.key}.partial.safetensors"


def default_statistics_folder() -> Path:
    """Where statistics are kept between runs: huggingface_hub's cache for what libraries derive from models."""
    from huggingface_hub import cached_assets_path

    return cached_assets_path("hf-layerprune", "statistics")


def _read(path: Path) -> LayerStatistics | None:
    try:
        return LayerStatistics.load(path)
    except ArtifactError:
        return None
