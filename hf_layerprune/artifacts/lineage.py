"""How a checkpoint came about: the checkpoints before it, oldest first, as `source.json` hands them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from hf_layerprune.artifacts.jsonfile import record_of
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError

SOURCE: Final = "source"
PRUNED: Final = "pruned"
HEALED: Final = "healed"
MAX_STEPS = 100


@dataclass(frozen=True)
class Step:
    """A checkpoint of a lineage. how: "source" for one that was not made with hf-layerprune, else what made it of the one before."""

    source: SourceRef
    how: Literal["source", "pruned", "healed"]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self.source), "how": self.how}


def parse_lineage(value: object, where: str) -> tuple[Step, ...]:
    """The steps in `source.json`, none where it has no such key; ArtifactError if they are damaged."""
    if value is None:
        return ()
    if not isinstance(value, list) or not 0 < len(value) <= MAX_STEPS:
        raise ArtifactError(f"{where}: the lineage is damaged: expected a list of at most {MAX_STEPS} checkpoints.")
    flat = [dict(item) if isinstance(item, dict) else {} for item in value]
    steps = tuple(record_of(Step, {"how": item.pop("how", None), "source": item}, "lineage", where) for item in flat)
    if any(step.how == SOURCE for step in steps[1:]):
        raise ArtifactError(f"{where}: the lineage is damaged: only its first checkpoint can be a source.")
    return steps
