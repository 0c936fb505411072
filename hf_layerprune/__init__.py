"""hf-layerprune: make vision-language models shallower. The public names, imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.errors import LayerPruneError
    from hf_layerprune.pruner import LayerPruner

__version__ = "0.1.0"
__all__ = ["LayerPruneError", "LayerPruner", "LayerStatistics", "PruningPlan", "__version__"]

_HOMES = {"LayerPruner": "pruner", "LayerPruneError": "errors", "LayerStatistics": "artifacts.statistics", "PruningPlan": "artifacts.plan"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
