"""How a checkpoint came about: the checkpoints before it, oldest first, as `source.json` hands them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError, shown

SOURCE, PRUNED, HEALED = "source", "pruned", "healed"
MAX_STEPS = 100


@dataclass(frozen=True)
class Step:
    """A checkpoint of a lineage. how: "source" for one that was not made with hf-layerprune, else what made it of the one before."""

    source: SourceRef
    how: str

    def __post_init__(self) -> None:
        if self.how not in (SOURCE, PRUNED, HEALED):
            raise ValueError(f"{shown(self.how)} is not how a checkpoint came about")

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self.source), "how": self.how}


def parse_lineage(value: object, where: str) -> tuple[Step, ...]:
    """The steps in `source.json`, none where it has no such key; ArtifactError where they are none."""
    if value is None:
        return ()
    try:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_STEPS:
            raise ValueError(f"expected a list of at most {MAX_STEPS} checkpoints")
        steps = tuple(Step(SourceRef(item["id"], item["commit"], item["fingerprint"]), item["how"]) for item in value)
        if any(step.how == SOURCE for step in steps[1:]):
            raise ValueError("a source that was made of another checkpoint")
        return steps
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{where}: the lineage is damaged ({error}).") from error


def earlier_name(record: str, place: int) -> str:
    """What the record of an earlier step is called: `healing-2.json` is how the checkpoint at place 2 of the lineage was made."""
    stem, _, suffix = record.rpartition(".")
    return f"{stem}-{place}.{suffix}"
