"""Everything that a card says, read from a folder's records: no number of it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import (
    CONFIG,
    CONTROL_EVALUATION,
    CONTROL_HEALING,
    EVALUATION,
    HEALING,
    LICENSE,
    MANIFEST,
    PLAN,
    PROVENANCE,
    RECORDS,
    STATISTICS,
)
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.artifacts.lineage import HEALED, PRUNED
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.provenance import CARD_KEYS
from hf_layerprune.checkpoint.side_files import check_ours
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import ArtifactError, LayerPruneError, PublishError, UsageError, shown
from hf_layerprune.families.facts import LINEAGE, model_facts
from hf_layerprune.families.lookup import find
from hf_layerprune.publishing.chain import Made, ancestors, healings
from hf_layerprune.publishing.sizes import Sizes, sizes_of

Record = TypeVar("Record")


@dataclass(frozen=True)
class CardFacts:
    """name: of the model, its folder's; source: what it was made from; family, layers, hidden_size, deepstack_layers: of its
    decoder, and of the source's taps; original_layers, original_depth: each layer's index in the first ancestor, and how many
    that had; sizes: before and after; card: what source.json says of licence, language and task, the licence as a
    person named it where license_given; plan, statistics, healing,
    evaluation, control: the records, None where there is none; control, control_healing are those of the unpruned source
    after the same fine-tuning; before: the checkpoints before `source`, oldest first, it last; later: those from the pruned stage of
    a healed model to what was healed last; both empty where there is nothing to tell; figures: names of the pictures that lie
    beside the card, under layerprune/; repo: the id that it is pushed to, None for a card that stays with its folder.
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


def card_facts(folder: Path, *, license: str | None = None, control: Path | None = None) -> CardFacts:
    """Read what a card says of a folder that hf-layerprune made; weights are not needed.

    license: to be stated instead of the source's, None for what was named before, if it was; control: the folder of the unpruned
    source after the same fine-tuning, with its evaluation, or None for the control whose records lie in the folder, if there are
    some. PublishError if the folder is none of ours, or its records are damaged or of different models.
    """
    folder = Path(folder)
    try:
        check_ours(folder)
    except ArtifactError as error:
        raise PublishError(str(error)) from error
    try:
        facts = _read(folder, license)
        if control is not None:
            card_facts(control)  # its own records must fit each other too
            return _with_control(facts, Path(control) / RECORDS, EVALUATION, HEALING, "Leave --control out, or name another folder.")
        if (folder / RECORDS / CONTROL_EVALUATION).exists():
            return _with_control(facts, folder / RECORDS, CONTROL_EVALUATION, CONTROL_HEALING, "Remove them, or name the control again.")
        return facts
    except PublishError:
        raise
    except LayerPruneError as error:
        raise PublishError(f"no card can be written: {error}") from error


def _read(folder: Path, license: str | None) -> CardFacts:
    records = folder / RECORDS
    manifest = Manifest.load(records / MANIFEST)
    license = _named(records / LICENSE) if license is None else license
    if CONFIG not in manifest.files:
        raise PublishError(f"{folder} holds an adapter alone, not a model. Heal without --keep-adapter to get a model with a card.")
    config = read_config(folder)
    plan = _optional(records / PLAN, PruningPlan.load)
    source = plan.source if plan else manifest.source
    decoder = model_facts(config, source, str(folder / CONFIG))
    depth = find(config, f"{LINEAGE}.original_depth")
    healing = _optional(records / HEALING, HealingRecord.load)
    facts = CardFacts(
        name=folder.resolve().name,
        manifest=manifest,
        source=source,
        family=decoder.family,
        layers=decoder.layers,
        hidden_size=decoder.hidden_size,
        deepstack_layers=decoder.deepstack_layers,
        original_layers=decoder.original_layers,
        original_depth=depth if type(depth) is int else None,
        sizes=sizes_of(folder, config, manifest, len(plan.drop) if plan else 0),
        card=_card(records / PROVENANCE, license),
        plan=plan,
        statistics=_optional(records / STATISTICS, LayerStatistics.load),
        healing=healing,
        evaluation=_optional(records / EVALUATION, EvalReport.load),
        license_given=license is not None,
    )
    _check(folder, facts)
    return _with_lineage(folder, facts)


def _with_lineage(folder: Path, facts: CardFacts) -> CardFacts:
    """The facts with what came before the source, and between the pruned stage and what was healed."""
    made = ancestors(folder, facts.manifest)
    places = [place for place, step in enumerate(made) if step.source.fingerprint == facts.source.fingerprint]
    if not places:
        raise PublishError(f"{folder / RECORDS / PLAN} is for none of the checkpoints that {PROVENANCE} names. Write the model again.")
    return replace(facts, before=made[: places[-1] + 1], later=made[places[-1] + 1 :])


def _optional(path: Path, load: Callable[[Path], Record]) -> Record | None:
    return load(path) if path.is_file() else None


def _named(path: Path) -> str | None:
    """The licence that an earlier card was given, None if none was."""
    if not path.is_file():
        return None
    found = read_json(path, "record of the licence").get("license")
    if not isinstance(found, str) or not _short(found):
        raise PublishError(f"{path}: names no licence. Name it again with --license, or remove the file.")
    return found


def _card(path: Path, license: str | None) -> dict[str, Any]:
    """What the source's own card says of licence, language and task, the licence replaced where a person named another."""
    record = read_json(path, "source record") if path.is_file() else {}
    card = {key: value for key, value in record.items() if key in CARD_KEYS and _short(value)}
    names = card.get("license")
    if any(name.strip().casefold() == "unknown" for name in ([names] if isinstance(names, str) else names or [])):
        card = {key: value for key, value in card.items() if not key.startswith("license")}  # an admission, no licence
    if license is not None:
        if not license.strip():
            raise PublishError("the licence is empty. Name one as the Hub spells it, such as --license apache-2.0, or leave it out.")
        card = {key: value for key, value in card.items() if not key.startswith("license")} | {"license": license}
    return card


def _short(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return 0 < len(items) <= 200 and all(isinstance(item, str) and 0 < len(item) <= 1000 for item in items)


def _check(folder: Path, facts: CardFacts) -> None:
    """Refuse records of different models: each number of a card must be this model's."""
    plan, healing, manifest = facts.plan, facts.healing, facts.manifest
    records = folder / RECORDS
    if plan and len(plan.keep) != facts.layers:
        raise PublishError(f"{records / PLAN} keeps {len(plan.keep)} layers, but config.json has {facts.layers}: they are of two models.")
    if plan and not healing and plan.source.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / PLAN} is for another source than {MANIFEST}. Write the model again with `hf-layerprune apply`.")
    if healing and healing.checkpoint.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / HEALING} is of another checkpoint than {MANIFEST}. Heal again.")
    if plan and facts.statistics and plan.statistics not in (None, facts.statistics.fingerprint):
        raise PublishError(f"{records / STATISTICS}: not the statistics that {PLAN} was made from. Put those there, or remove the file.")
    found = facts.sizes.fingerprint
    if facts.evaluation and found not in (None, facts.evaluation.model.fingerprint):
        raise PublishError(f"{records / EVALUATION} is of other weights than those that lie here. Run `hf-layerprune evaluate` again.")


def _with_control(facts: CardFacts, place: Path, evaluation: str, healing: str, remedy: str) -> CardFacts:
    """The facts with the evaluation of the unpruned source after the same fine-tuning; PublishError where it is no such thing.

    place: the folder of its records; evaluation, healing: what they are called there; remedy: what to do where they do not fit.
    """
    if facts.healing is None:
        raise PublishError(f"{facts.name} was not healed, so no fine-tuning of its source is the same. {remedy}")
    report, tuned = _optional(place / evaluation, EvalReport.load), _optional(place / healing, HealingRecord.load)
    if report is None or tuned is None or (evaluation == EVALUATION and (place / PLAN).exists()):
        raise PublishError(f"{place}: no control: expected {healing} and {evaluation} of the unpruned source, and no {PLAN}. {remedy}")
    if tuned.checkpoint.fingerprint != facts.source.fingerprint:
        theirs = f"{shown(tuned.checkpoint.id)} with fingerprint {tuned.checkpoint.fingerprint[:12]}"
        raise PublishError(f"{place}: a control made from {theirs}, but this model was made from {facts.source.fingerprint[:12]}. {remedy}")
    if (times := len(healings(facts.chain))) > 1:
        raise PublishError(f"{facts.name} was healed {times} times, and a control is compared with one healing. {remedy}")
    if other := _differs(facts.healing, tuned):
        raise PublishError(f"{place}: not the same fine-tuning, {other} differs. Heal the source with the recipe and data of this model.")
    if not facts.evaluation or _samples(report) != _samples(facts.evaluation):
        raise PublishError(f"{place}: evaluated on other samples than this model. Evaluate both on the same ones.")
    if other := _asked_otherwise(report, facts.evaluation):
        raise PublishError(f"{place}: evaluated with another {other} than this model. Evaluate both with the same options.")
    return replace(facts, control=report, control_healing=tuned)


def _differs(ours: HealingRecord, theirs: HealingRecord) -> str | None:
    """The first thing that two fine-tunings do not share; which layers are trained follows from the model and may differ."""
    speed = ("micro_batch_size", "gradient_checkpointing")
    for key in ours.recipe.keys() | theirs.recipe.keys():
        if key not in speed and ours.recipe.get(key) != theirs.recipe.get(key):
            return key
    return "the data" if ours.data.get("digest") != theirs.data.get("digest") else "the seed" if ours.seed != theirs.seed else None


def _samples(report: EvalReport) -> list[tuple[Any, ...]]:
    return [(task.name, task.digest, task.samples) for task in report.tasks]


def _asked_otherwise(ours: EvalReport, theirs: EvalReport) -> str | None:
    """The first thing besides the samples in which two evaluations differ and that decides answers or scores."""
    mine, other = _settings(ours), _settings(theirs)
    return next((key.replace("_", " ") for key in mine if mine[key] != other[key]), None)


def _settings(report: EvalReport) -> dict[str, Any]:
    """What decides the answers and their scores."""
    asked, model = report.asked, report.model
    found = {"scorer": asked.scorer, "max_new_tokens": asked.max_new_tokens}
    return {**found, "dtype": model.environment.dtype, "decoding": model.settings.decoding}
