"""Output files: refuse what is not ours before any work, recognise what is finished."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hf_layerprune.checkpoint.output_place import check_place
from hf_layerprune.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from hf_layerprune.probing.options import ProbeOptions
    from hf_layerprune.probing.probe_set import ProbeSet
    from hf_layerprune.pruner import LayerPruner


def check_file(output: Path, overwrite: bool, load: Callable[[Path], object], what: str, source: Path | None = None) -> None:
    """LayerPruneError unless a file can be written there: outside the folder `source`, new, or `what` and to be overwritten."""
    check_place(output, "file", source)
    if not output.exists():
        return
    if not output.is_file():
        raise ArtifactError(f"{output}: is not a file. Choose another name.")
    if not overwrite:
        raise ArtifactError(f"{output}: exists. Choose another name, or add --overwrite.")
    try:
        load(output)
    except ArtifactError as error:
        raise ArtifactError(
            f"{output}: exists and is no {what} file of ours, so --overwrite does not replace it. Choose another name."
        ) from error


def finished_probe(output: Path, pruner: LayerPruner, probe_set: ProbeSet, options: ProbeOptions) -> bool:
    """Whether a file holds the statistics of these images that the options ask for."""
    from hf_layerprune.artifacts.statistics import LayerStatistics

    if not os.path.isfile(output):
        return False
    try:
        found = LayerStatistics.load(output)
        probe_set.check_unusable(found.record.skipped_count, found.record.skipped, options.tolerance)
    except (ArtifactError, DataError):
        return False
    settings = pruner.probe_settings(options.device)
    return (
        found.model.source.fingerprint == pruner.facts.source.fingerprint
        and found.record.probe_set.get("fingerprint") == probe_set.fingerprint
        and all(found.record.settings.get(name) == value for name, value in settings.items())
    )
