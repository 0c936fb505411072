"""Read the records of a folder into what a card says, and refuse records of different models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
    PRUNED_EVALUATION,
    RECORDS,
    STATISTICS,
)
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.provenance import CARD_KEYS
from hf_layerprune.checkpoint.side_files import check_ours
from hf_layerprune.errors import ArtifactError, LayerPruneError, PublishError
from hf_layerprune.families.facts import LINEAGE, model_facts
from hf_layerprune.families.lookup import find
from hf_layerprune.publishing.chain import ancestors
from hf_layerprune.publishing.comparisons import with_control, with_pruned
from hf_layerprune.publishing.facts import CardFacts, read_optional
from hf_layerprune.publishing.sizes import sizes_of


def card_facts(folder: Path, *, license: str | None = None, control: Path | None = None, pruned: Path | None = None) -> CardFacts:
    """Read what a card says of a folder that hf-layerprune made; weights are not needed.

    license: to be stated instead of the source's, None for what was named before, if it was; control: the folder of the unpruned
    source after the same fine-tuning, with its evaluation; pruned: that of the pruned model before it was fine-tuned, with its
    evaluation; None for those whose records lie in the folder, if there are some. PublishError if the folder is none of ours, or
    its records are damaged or of different models.
    """
    folder = Path(folder)
    try:
        check_ours(folder)
    except ArtifactError as error:
        raise PublishError(str(error)) from error
    try:
        facts, records = _read(folder, license), folder / RECORDS
        if control is not None:
            card_facts(control)  # its own records must fit each other too
            facts = with_control(facts, Path(control) / RECORDS, EVALUATION, HEALING, "Leave --control out, or name another folder.")
        elif (records / CONTROL_EVALUATION).exists():
            facts = with_control(facts, records, CONTROL_EVALUATION, CONTROL_HEALING, "Remove them, or name the control again.")
        if pruned is not None:
            facts = with_pruned(facts, Path(pruned) / RECORDS / EVALUATION, "Leave --pruned out, or name another folder.")
        elif (records / PRUNED_EVALUATION).exists():
            facts = with_pruned(facts, records / PRUNED_EVALUATION, "Remove it, or name the pruned model again.")
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
    plan = read_optional(records / PLAN, PruningPlan.load)
    source = plan.source if plan else manifest.source
    decoder = model_facts(config, source, str(folder / CONFIG))
    depth = find(config, f"{LINEAGE}.original_depth")
    healing = read_optional(records / HEALING, HealingRecord.load)
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
        statistics=read_optional(records / STATISTICS, LayerStatistics.load),
        healing=healing,
        evaluation=read_optional(records / EVALUATION, EvalReport.load),
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
