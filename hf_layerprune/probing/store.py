"""Keep finished and interrupted statistics in a folder, so that a second method or budget need not probe again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.artifacts.statistics import STATISTICS_FORMAT, LayerStatistics
from hf_layerprune.errors import ArtifactError, ProbeError


@dataclass(frozen=True)
class StatisticsStore:
    """The place in a folder of one model's statistics over one probe set. What cannot be read there counts as absent."""

    folder: Path
    key: str

    @classmethod
    def of(cls, folder: Path, model_fingerprint: str, probe_fingerprint: str, settings: Mapping[str, Any]) -> StatisticsStore:
        """settings: what decides the numbers besides model and probe set, as JSON values."""
        content = [STATISTICS_FORMAT, model_fingerprint, probe_fingerprint, dict(settings)]
        return cls(folder, digest_of(content)[:32])

    def finished(self) -> LayerStatistics | None:
        return _read(self._finished)

    def partial(self) -> LayerStatistics | None:
        """What an interrupted probe had measured; its record's `probe_set` says under "done" how many pictures that are."""
        return _read(self._partial)

    def keep_partial(self, statistics: LayerStatistics) -> None:
        """For a run that goes on. ProbeError or ArtifactError where the file system refuses; what stood there stays."""
        self._keep(statistics, self._partial)

    def keep_finished(self, statistics: LayerStatistics) -> None:
        """For every later run; raises as `keep_partial` does."""
        try:
            self._keep(statistics, self._finished)
        finally:
            with suppress(OSError):  # left there it does no harm: what is finished is looked for first
                if self._finished.exists():
                    self._partial.unlink()

    def _keep(self, statistics: LayerStatistics, path: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_folder(self.folder, error.strerror) from error
        statistics.save(path)

    @property
    def _finished(self) -> Path:
        return self.folder / f"{self.key}.safetensors"

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self.key}.partial.safetensors"


def _no_folder(folder: Path, reason: str | None) -> ProbeError:
    return ProbeError(f"{folder}: statistics cannot be kept there: {reason}. Name another place with HF_HOME, or add --no-cache.")


def _read(path: Path) -> LayerStatistics | None:
    try:
        return LayerStatistics.load(path)
    except ArtifactError:
        return None
