"""The checkpoints from the first that the records name to a model, each with the record of how it came about, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hf_layerprune.artifacts.folder import HEALING, PLAN, PROVENANCE, RECORDS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.lineage import HEALED, PRUNED, SOURCE, earlier_name
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.provenance import ancestors_of
from hf_layerprune.errors import PublishError

Record = TypeVar("Record")


@dataclass(frozen=True)
class Stage:
    """A checkpoint. how: "source", "pruned" or "healed"; plan, healing: how it was made of the one before, None where the records do not
    say; record: the file that says it."""

    source: SourceRef
    how: str = SOURCE
    plan: PruningPlan | None = None
    healing: HealingRecord | None = None
    record: str | None = None


def ancestors(folder: Path, manifest: Manifest) -> tuple[Stage, ...]:
    """What came before the checkpoint in a folder, oldest first, what it was made of last; PublishError where the records are of others."""
    records = folder / RECORDS
    steps = ancestors_of(records, manifest)
    if steps[-1].source.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / PROVENANCE}: its lineage does not end with this model's source. Write the model again.")
    pruned = max((place for place, step in enumerate(steps) if step.how == PRUNED), default=-1)
    found = [Stage(steps[0].source, steps[0].how)]
    for place, step in enumerate(steps[1:], 1):
        before = steps[place - 1].source
        plan = healing = None
        name = earlier_name(PLAN if step.how == PRUNED else HEALING, place)
        if step.how == PRUNED:
            name = PLAN if place == pruned and manifest.changed else name
            plan = _fitting(records / name, PruningPlan.load, lambda found: found.source, before)
        else:
            healing = _fitting(records / name, HealingRecord.load, lambda found: found.checkpoint, before)
        found.append(Stage(step.source, step.how, plan, healing, f"{RECORDS}/{name}" if plan or healing else None))
    return tuple(found)


def _fitting(path: Path, load: Callable[[Path], Record], made_of: Callable[[Record], SourceRef], before: SourceRef) -> Record | None:
    if not path.is_file():
        return None
    record = load(path)
    if made_of(record).fingerprint != before.fingerprint:
        raise PublishError(f"{path}: is not how the checkpoint at its place of the lineage was made. Remove the file.")
    return record


def healings(stages: Sequence[Stage]) -> list[Stage]:
    """The fine-tunings at the end, after the last pruning, oldest first."""
    last = max((place for place, stage in enumerate(stages) if stage.how != HEALED), default=-1)
    return list(stages[last + 1 :])
