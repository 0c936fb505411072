"""Output files: refuse what is not ours before any work, recognise what is finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.errors import ArtifactError, shown

if TYPE_CHECKING:
    from hf_layerprune.probing.probe_set import ProbeSet
    from hf_layerprune.pruner import LayerPruner


def check_file(output: Path, overwrite: bool, load: Callable[[Path], object], what: str, source: Path | None = None) -> None:
    """ArtifactError unless a file can be written there: outside the folder `source`, new, or `what` and to be overwritten."""
    if len(os.fsencode(output.name)) > 255:
        raise ArtifactError(f"output {shown(output.name)}: the name has {len(os.fsencode(output.name))} bytes, at most 255 are possible.")
    if output.is_symlink():
        raise ArtifactError(f"{output}: is a link; name the file itself.")
    if source and source.resolve() in output.resolve().parents:
        raise ArtifactError(f"{output} lies in the source {source}, which is never written to. Choose another place.")
    if not output.parent.is_dir():
        raise ArtifactError(f"{output}: there is no folder {output.parent} to write into.")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise ArtifactError(f"{output}: the folder {output.parent} is not writable. Choose a folder that you may write to.")
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


def finished_probe(output: Path, pruner: LayerPruner, pictures: ProbeSet, probing: Mapping[str, Any]) -> bool:
    """Whether a file holds the statistics of these pictures that the options ask for."""
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.data.limits import parse_max_bad
    from hf_layerprune.probing.probe_set import beyond_limit

    if not os.path.isfile(output):
        return False
    try:
        found = LayerStatistics.load(output)
    except ArtifactError:
        return False
    settings = pruner.probe_settings(probing["device"])
    return (
        found.model.source.fingerprint == pruner.facts.source.fingerprint
        and found.record.probe_set.get("fingerprint") == pictures.fingerprint
        and not beyond_limit(pictures, found.record.skipped_count, parse_max_bad(probing["max_bad"]))
        and all(found.record.settings.get(name) == value for name, value in settings.items())
    )
