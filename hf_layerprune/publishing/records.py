"""Read the records of a folder into what a card says, and refuse records of different models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from hf_layerprune.checkpoint.provenance import CARD_KEYS, ancestors_of
from hf_layerprune.checkpoint.side_files import check_ours
from hf_layerprune.errors import LayerPruneError, PublishError, shown
from hf_layerprune.families.facts import LINEAGE, model_facts
from hf_layerprune.families.family import find
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.options import CardOptions
from hf_layerprune.publishing.sizes import sizes_of

Record = TypeVar("Record")
SPEED = ("micro_batch_size", "gradient_checkpointing")  # settings of a recipe that do not decide its result


def card_facts(folder: Path, options: CardOptions = CardOptions()) -> CardFacts:
    """Read what a card says of a folder that hf-layerprune made; weights are not needed.

    PublishError if the folder was not made by hf-layerprune, or its records are damaged or of different models.
    """
    folder, records = Path(folder), Path(folder) / RECORDS
    try:
        check_ours(folder)
        facts = _read(folder, options.license)
        if options.control is not None:
            card_facts(options.control)  # its own records must fit each other too
            facts = _with_control(facts, Path(options.control) / RECORDS, EVALUATION, HEALING)
        elif (records / CONTROL_EVALUATION).exists():
            facts = _with_control(facts, records, CONTROL_EVALUATION, CONTROL_HEALING)
        if options.pruned is not None:
            facts = _with_pruned(facts, Path(options.pruned) / RECORDS / EVALUATION)
        elif (records / PRUNED_EVALUATION).exists():
            facts = _with_pruned(facts, records / PRUNED_EVALUATION)
        return facts
    except PublishError:
        raise
    except LayerPruneError as error:
        raise PublishError(f"no card can be written: {error}") from error


def _read(folder: Path, license: str | None) -> CardFacts:
    records = folder / RECORDS
    manifest = Manifest.load(records / MANIFEST)
    if CONFIG not in manifest.files:
        raise PublishError(f"{folder} holds an adapter alone, not a model. Heal without --keep-adapter to get a model with a card.")
    license = _license_given_before(records / LICENSE) if license is None else license
    config = read_config(folder)
    plan = _optional(records / PLAN, PruningPlan.load)
    source = plan.source if plan else manifest.source
    depth = find(config, f"{LINEAGE}.original_depth")
    facts = CardFacts(
        name=folder.resolve().name,
        manifest=manifest,
        source=source,
        decoder=model_facts(config, source, str(folder / CONFIG)),
        original_depth=depth if type(depth) is int else None,
        sizes=sizes_of(folder, config, manifest, len(plan.drop) if plan else 0),
        card=_source_card(records / PROVENANCE, license),
        lineage=ancestors_of(records, manifest),
        plan=plan,
        statistics=_optional(records / STATISTICS, LayerStatistics.load),
        healing=_optional(records / HEALING, HealingRecord.load),
        evaluation=_optional(records / EVALUATION, EvalReport.load),
        license_given=license is not None,
    )
    _refuse_records_of_others(records, facts)
    return facts


def _optional(path: Path, load: Callable[[Path], Record]) -> Record | None:
    return load(path) if path.is_file() else None


def _license_given_before(path: Path) -> str | None:
    if not path.is_file():
        return None
    found = read_json(path, "record of the license").get("license")
    if not isinstance(found, str) or not _short(found):
        raise PublishError(f"{path}: names no license. Name it again with --license, or remove the file.")
    return found


def _source_card(path: Path, license: str | None) -> dict[str, Any]:
    """What the source's own card says of license, language and task, the license replaced where a person named another."""
    if license is not None and not license.strip():
        raise PublishError("the license is empty. Name one as the Hub spells it, such as --license apache-2.0, or leave it out.")
    record = read_json(path, "source record") if path.is_file() else {}
    card = {key: value for key, value in record.items() if key in CARD_KEYS and _short(value)}
    names = card.get("license")
    unknown = any(name.strip().casefold() == "unknown" for name in ([names] if isinstance(names, str) else names or []))
    if license is not None or unknown:
        card = {key: value for key, value in card.items() if not key.startswith("license")}
    return card if license is None else card | {"license": license}


def _short(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return 0 < len(items) <= 200 and all(isinstance(item, str) and 0 < len(item) <= 1000 for item in items)


def _refuse_records_of_others(records: Path, facts: CardFacts) -> None:
    """Each number of a card must be this model's."""
    plan, healing, manifest = facts.plan, facts.healing, facts.manifest
    if plan and len(plan.keep) != facts.decoder.layers:
        raise PublishError(
            f"{records / PLAN} keeps {len(plan.keep)} layers, but config.json has {facts.decoder.layers}: they are of two models."
        )
    if plan and not healing and plan.source.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / PLAN} is for another source than {MANIFEST}. Write the model again with `hf-layerprune apply`.")
    if healing and healing.checkpoint.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / HEALING} is of another checkpoint than {MANIFEST}. Heal again.")
    if facts.lineage[-1].source.fingerprint != manifest.source.fingerprint:
        raise PublishError(f"{records / PROVENANCE}: its lineage does not end with this model's source. Write the model again.")
    if facts.source.fingerprint not in [step.source.fingerprint for step in facts.lineage]:
        raise PublishError(f"{records / PLAN} is for none of the checkpoints that {PROVENANCE} names. Write the model again.")
    if plan and facts.statistics and plan.statistics not in (None, facts.statistics.fingerprint):
        raise PublishError(f"{records / STATISTICS}: not the statistics that {PLAN} was made from. Put those there, or remove the file.")
    if facts.evaluation and facts.sizes.fingerprint not in (None, facts.evaluation.model.fingerprint):
        raise PublishError(f"{records / EVALUATION} is of other weights than those that lie here. Run `hf-layerprune evaluate` again.")


def _with_control(facts: CardFacts, place: Path, evaluation: str, healing: str) -> CardFacts:
    """The facts with the evaluation of the unpruned source after the same fine-tuning; PublishError where it is no such thing.

    place: the folder of its records; evaluation, healing: what they are called there.
    """
    remedy = f"Name another folder with --control, or leave it out and remove {CONTROL_EVALUATION}."
    if facts.healing is None:
        raise PublishError(f"{facts.name} was not healed, so no fine-tuning of its source is the same. {remedy}")
    report, tuned = _optional(place / evaluation, EvalReport.load), _optional(place / healing, HealingRecord.load)
    if report is None or tuned is None or (evaluation == EVALUATION and (place / PLAN).exists()):
        raise PublishError(f"{place}: no control: expected {healing} and {evaluation} of the unpruned source, and no {PLAN}. {remedy}")
    if tuned.checkpoint.fingerprint != facts.source.fingerprint:
        theirs = f"{shown(tuned.checkpoint.id)} with fingerprint {tuned.checkpoint.fingerprint[:12]}"
        raise PublishError(f"{place}: a control made from {theirs}, but this model was made from {facts.source.fingerprint[:12]}. {remedy}")
    if (times := len(facts.healings)) > 1:
        raise PublishError(f"{facts.name} was healed {times} times, and a control is compared with one healing. {remedy}")
    differing = [key for key, value in vars(facts.healing.recipe).items() if key not in SPEED and value != getattr(tuned.recipe, key)]
    if facts.healing.data.digest != tuned.data.digest:
        differing.append("the data")
    if facts.healing.seed != tuned.seed:
        differing.append("the seed")
    if differing:
        raise PublishError(
            f"{place}: not the same fine-tuning, {differing[0]} differs. Heal the source with the recipe and data of this model."
        )
    _refuse_incomparable(facts, report, place)
    return replace(facts, control=report, control_healing=tuned)


def _with_pruned(facts: CardFacts, path: Path) -> CardFacts:
    """The facts with the evaluation of the pruned model that was healed; PublishError where it is of another one."""
    remedy = f"Name another folder with --pruned, or leave it out and remove {PRUNED_EVALUATION}."
    if facts.plan is None or facts.healing is None:
        raise PublishError(f"{facts.name} is no pruned model that was healed, so there is none to compare with. {remedy}")
    report = _optional(path, EvalReport.load)
    if report is None:
        raise PublishError(f"{path}: missing. Evaluate the pruned model first (`hf-layerprune evaluate`).")
    stage = facts.stages[-1 - len(facts.healings)].source
    if report.model.fingerprint != stage.fingerprint:
        theirs = f"{shown(report.model.id)} with fingerprint {report.model.fingerprint[:12]}"
        raise PublishError(f"{path}: of {theirs}, but this model was healed from {stage.fingerprint[:12]}. {remedy}")
    _refuse_incomparable(facts, report, path)
    return replace(facts, pruned=report)


def _refuse_incomparable(facts: CardFacts, report: EvalReport, place: Path) -> None:
    """PublishError unless a report is on the same samples as the model's, asked and scored in the same way."""
    ours = facts.evaluation
    if not ours or _samples(report) != _samples(ours):
        raise PublishError(f"{place}: evaluated on other samples than this model. Evaluate both on the same ones.")
    theirs = _settings(report)
    if other := next((key for key, value in _settings(ours).items() if theirs[key] != value), None):
        raise PublishError(f"{place}: evaluated with another {other} than this model. Evaluate both with the same options.")


def _samples(report: EvalReport) -> list[tuple[str, str, int]]:
    return [(task.name, task.digest, task.samples) for task in report.tasks]


def _settings(report: EvalReport) -> dict[str, Any]:
    model = report.model
    asked = {"scorer": report.asked.scorer, "max new tokens": report.asked.max_new_tokens}
    return asked | {"dtype": model.environment.dtype, "decoding": model.settings.decoding}
