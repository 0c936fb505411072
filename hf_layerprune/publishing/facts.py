"""Everything that a card says, read from a folder's records: no number of it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import (
    HEALING,
    PLAN,
    RECORDS,
)
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.lineage import HEALED, PRUNED
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import UsageError
from hf_layerprune.publishing.sizes import Sizes
from hf_layerprune.publishing.stages import Stage

Record = TypeVar("Record")


class Named(TypedDict, total=False):
    """What a person names for a card, as `card_facts` takes it."""

    license: str | None
    control: Path | None
    pruned: Path | None


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
    plan: PruningPlan | None
    statistics: LayerStatistics | None
    healing: HealingRecord | None
    evaluation: EvalReport | None
    control: EvalReport | None = None  # of the unpruned source after the same fine-tuning
    control_healing: HealingRecord | None = None
    pruned: EvalReport | None = None  # of the pruned model before it was fine-tuned
    before: tuple[Stage, ...] = ()  # up to the source, which is last; empty: only the source is known
    later: tuple[Stage, ...] = ()  # from the pruned stage of a healed model to what was healed last
    license_given: bool = False  # whether a person named the license
    figures: frozenset[str] = frozenset()  # names of the images beside the card, under layerprune/
    repo: str | None = None  # the id that it is pushed to, None for a card that stays with its folder

    @property
    def license(self) -> str | None:
        """The licence's identifier on the Hub, None if neither the source nor the person who asked named one."""
        found = self.card.get("license")
        return str(found[0] if isinstance(found, list) else found) if found else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every checkpoint from the first that the records name to this one, which is last."""
        before = self.before or (Stage(self.source),)
        found = [*before[:-1], replace(before[-1], source=self.source)]
        if self.plan and self.healing:
            first, *rest = self.later or (Stage(self.healing.checkpoint, PRUNED),)
            stages = [replace(first, plan=self.plan, record=f"{RECORDS}/{PLAN}"), *rest]
            found += [*stages[:-1], replace(stages[-1], source=self.healing.checkpoint)]
        own = SourceRef(self.name, None, self.sizes.fingerprint or "")
        if self.healing:
            return (*found, Stage(own, HEALED, None, self.healing, f"{RECORDS}/{HEALING}"))
        return (*found, Stage(own, PRUNED, self.plan, None, f"{RECORDS}/{PLAN}"))

    @property
    def base_model(self) -> str | None:
        """The Hub id of what this was made from, or of what that says it was made from; None where neither is on the Hub."""
        inherited = self.card.get("base_model")
        ancestors = [stage.source.id for stage in reversed(self.before)]
        candidates = [self.source.id, *ancestors, *([inherited] if isinstance(inherited, str) else inherited or [])]
        return next((str(item) for item in candidates if is_hub_id(item)), None)


def hub_dataset(record: Mapping[str, Any]) -> DataSpec | None:
    """The dataset on the Hub that the record of a task or of healing data names; None for files, and for what is built in."""
    try:
        spec = DataSpec.parse(str(record.get("spec", "")))
    except UsageError:
        return None
    return spec if record.get("revision") and is_hub_id(spec.name) else None


def read_optional(path: Path, load: Callable[[Path], Record]) -> Record | None:
    return load(path) if path.is_file() else None
