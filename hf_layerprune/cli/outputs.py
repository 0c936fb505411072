"""Output files: refuse what is not ours before any work, recognise what is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.errors import ArtifactError

if TYPE_CHECKING:
    from hf_layerprune.pruner import LayerPruner


def check_file(output: Path, overwrite: bool, load: Callable[[Path], object], what: str) -> None:
    """ArtifactError unless a file can be written there: it is new, or it is `what` and may be overwritten."""
    if not output.parent.is_dir():
        raise ArtifactError(f"{output}: there is no folder {output.parent} to write into.")
    if output.is_symlink():
        raise ArtifactError(f"{output}: is a link; name the file itself.")
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


def finished_probe(output: Path, pruner: LayerPruner, probing: Mapping[str, Any]) -> bool:
    """Whether a file holds the statistics that these options ask for."""
    from hf_layerprune.artifacts.statistics import LayerStatistics

    if not output.is_file():
        return False
    try:
        found = LayerStatistics.load(output)
    except ArtifactError:
        return False
    pictures = pruner.probe_set(**{name: probing[name] for name in ("math_images", "general_images", "samples", "allow_fewer")})
    settings = pruner.probe_settings(probing["device"])
    return (
        found.model.source.fingerprint == pruner.facts.source.fingerprint
        and found.record.probe_set["fingerprint"] == pictures.fingerprint
        and all(found.record.settings.get(name) == value for name, value in settings.items())
    )
