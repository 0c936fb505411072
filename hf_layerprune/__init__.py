"""hf-layerprune: make vision-language models shallower. The public names; all but the errors are imported when first used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_layerprune.errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    EvaluationError,
    FamilyError,
    HealingError,
    LayerPruneError,
    ModelError,
    ProbeError,
    PublishError,
    SourceError,
    StrategyError,
    UsageError,
)

if TYPE_CHECKING:
    from hf_layerprune.artifacts.eval_report import EvalReport
    from hf_layerprune.artifacts.healing_record import HealingRecord
    from hf_layerprune.artifacts.manifest import Manifest
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import LayerStatistics
    from hf_layerprune.pruner import LayerPruner
    from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "CheckpointError",
    "DataError",
    "EvalReport",
    "EvaluationError",
    "Evidence",
    "FamilyError",
    "HealingError",
    "HealingRecord",
    "LayerPruneError",
    "LayerPruner",
    "LayerStatistics",
    "Manifest",
    "ModelError",
    "ProbeError",
    "PruningPlan",
    "PublishError",
    "Selection",
    "SourceError",
    "Strategy",
    "StrategyError",
    "UsageError",
    "__version__",
]

_HOMES = {
    "EvalReport": "artifacts.eval_report",
    "Evidence": "strategies.strategy",
    "HealingRecord": "artifacts.healing_record",
    "LayerPruner": "pruner",
    "LayerStatistics": "artifacts.statistics",
    "Manifest": "artifacts.manifest",
    "PruningPlan": "artifacts.plan",
    "Selection": "strategies.strategy",
    "Strategy": "strategies.strategy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # With the module, Python's traceback suggests the nearest of `__dir__`.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    """The public names, for completion; not the modules that happen to be imported."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
