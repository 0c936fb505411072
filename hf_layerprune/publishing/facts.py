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
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import UsageError
from hf_layerprune.publishing.chain import Made
from hf_layerprune.publishing.sizes import Sizes

Record = TypeVar("Record")


class Named(TypedDict, total=False):
    """What a person names for a card, as `card_facts` takes it."""

    license: str | None
    control: Path | None
    pruned: Path | None


@dataclass(frozen=True)
class CardFacts:
    """name: of the model, its folder's; source: what it was made from; family, layers, hidden_size, deepstack_layers: of its
    decoder, and of the source's taps; original_layers, original_depth: each layer's index in the first ancestor, and how many
    that had; sizes: before and after; card: what source.json says of licence, language and task, the licence as a
    person named it where license_given; plan, statistics, healing,
    evaluation, control: the records, None where there is none; control, control_healing are those of the unpruned source
    after the same fine-tuning; pruned: of the pruned model before it was fine-tuned; before: the checkpoints before `source`,
    oldest first, it last; later: those from the pruned stage of a healed model to what was healed last; both empty where there is
    nothing to tell; figures: names of the images that lie beside the card, under layerprune/; repo: the id that it is pushed to,
    None for a card that stays with its folder.
    """

    name: str
    manifest: Manifest
    source: SourceRef
    family: str
    layers: int
    hidden_size: int
    deepstack_layers: int
    original_layers: tuple[int, ...] | None
    original_depth: int | None
    sizes: Sizes
    card: Mapping[str, Any]
    plan: PruningPlan | None
    statistics: LayerStatistics | None
    healing: HealingRecord | None
    evaluation: EvalReport | None
    control: EvalReport | None = None
    control_healing: HealingRecord | None = None
    pruned: EvalReport | None = None
    before: tuple[Made, ...] = ()
    later: tuple[Made, ...] = ()
    license_given: bool = False
    figures: frozenset[str] = frozenset()
    repo: str | None = None

    @property
    def license(self) -> str | None:
        """The licence's identifier on the Hub, None if neither the source nor the person who asked named one."""
        found = self.card.get("license")
        return str(found[0] if isinstance(found, list) else found) if found else None

    @property
    def chain(self) -> tuple[Made, ...]:
        """Every checkpoint from the first that the records name to this one, which is last."""
        before = self.before or (Made(self.source),)
        chain = [*before[:-1], replace(before[-1], source=self.source)]
        if self.plan and self.healing:
            first, *rest = self.later or (Made(self.healing.checkpoint, PRUNED),)
            stages = [replace(first, plan=self.plan, record=f"{RECORDS}/{PLAN}"), *rest]
            chain += [*stages[:-1], replace(stages[-1], source=self.healing.checkpoint)]
        own = SourceRef(self.name, None, self.sizes.fingerprint or "")
        if self.healing:
            return (*chain, Made(own, HEALED, None, self.healing, f"{RECORDS}/{HEALING}"))
        return (*chain, Made(own, PRUNED, self.plan, None, f"{RECORDS}/{PLAN}"))

    @property
    def base_model(self) -> str | None:
        """The Hub id of what this was made from, or of what that says it was made from; None where neither is on the Hub."""
        inherited = self.card.get("base_model")
        ancestors = [made.source.id for made in reversed(self.before)]
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
