"""Everything that a card says, as values: no number of it comes from elsewhere than a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import HEALING, PLAN, RECORDS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.model_facts import HEALED, PRUNED, ModelFacts, SourceRef, Step, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import UsageError
from hf_layerprune.publishing.sizes import Sizes


@dataclass(frozen=True)
class Stage:
    """A checkpoint of the lineage, and how it was made of the one before, where a record here says it."""

    source: SourceRef
    how: str  # "source", "pruned" or "healed"
    plan: PruningPlan | None = None
    healing: HealingRecord | None = None

    @property
    def record(self) -> str | None:
        """The file that says how it was made, None where there is none."""
        return f"{RECORDS}/{PLAN}" if self.plan else f"{RECORDS}/{HEALING}" if self.healing else None


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says of a model; a record that is missing is None."""

    name: str  # of the model: its folder's
    manifest: Manifest
    source: SourceRef  # what it was pruned from, or for a dense model that was healed, what was healed
    decoder: ModelFacts  # of this model
    original_depth: int | None  # layers of the first ancestor
    sizes: Sizes
    card: Mapping[str, Any]  # what source.json says of license, language and task
    lineage: tuple[Step, ...]  # the checkpoints before this one, oldest first
    plan: PruningPlan | None
    statistics: LayerStatistics | None
    healing: HealingRecord | None
    evaluation: EvalReport | None
    control: EvalReport | None = None  # of the unpruned source after the same fine-tuning
    control_healing: HealingRecord | None = None
    pruned: EvalReport | None = None  # of the pruned model before it was fine-tuned
    license_given: bool = False  # whether a person named the license
    figures: frozenset[str] = frozenset()  # names of the images beside the card, under layerprune/
    repo: str | None = None  # the id that it is pushed to, None for a card that stays with its folder

    @property
    def license(self) -> str | None:
        """The license's identifier on the Hub, None if neither the source nor the person who asked named one."""
        found = self.card.get("license")
        return str(found[0] if isinstance(found, list) else found) if found else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every checkpoint from the first that the records name to this one, which is last."""
        stages = [Stage(step.source, step.how) for step in self.lineage]
        own = SourceRef(self.name, None, self.sizes.fingerprint or "")
        if not self.healing:
            return (*stages[:-1], replace(stages[-1], source=self.source), Stage(own, PRUNED, plan=self.plan))
        if self.plan:
            pruned = next((place for place in reversed(range(1, len(stages))) if stages[place].how == PRUNED), None)
            if pruned and stages[pruned - 1].source.fingerprint == self.plan.source.fingerprint:
                stages[pruned - 1 : pruned + 1] = replace(stages[pruned - 1], source=self.source), replace(stages[pruned], plan=self.plan)
        return (*stages, Stage(own, HEALED, healing=self.healing))

    @property
    def healings(self) -> tuple[Stage, ...]:
        """The fine-tunings after the last pruning, oldest first."""
        stages = self.stages
        last = max((place for place, stage in enumerate(stages) if stage.how != HEALED), default=-1)
        return stages[last + 1 :]

    @property
    def start(self) -> int:
        """The place in `stages` from which on the records say how everything was made."""
        return max((place for place, stage in enumerate(self.stages) if place and stage.record is None), default=0)

    @property
    def base_models(self) -> list[str]:
        """The Hub id of what this was made from, or those that it says it was made from; none where neither is on the Hub."""
        ancestors = [step.source.id for step in reversed(self.lineage)]
        found = next((item for item in (self.source.id, *ancestors) if is_hub_id(item)), None)
        inherited = self.card.get("base_model") or []
        stated = [inherited] if isinstance(inherited, str) else inherited
        return [found] if found else [str(item) for item in stated if is_hub_id(item)]


def hub_dataset(record: Mapping[str, Any]) -> DataSpec | None:
    """The dataset on the Hub that the record of a task or of healing data names; None for files, and for what is built in."""
    try:
        spec = DataSpec.parse(str(record.get("spec", "")))
    except UsageError:
        return None
    return spec if record.get("revision") and is_hub_id(spec.name) else None
