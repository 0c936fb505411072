"""What a healed model is compared with on its card: the pruned model before it, and the unpruned source after the same fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import EVALUATION, PLAN
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.errors import PublishError, shown
from hf_layerprune.publishing.facts import CardFacts, read_optional
from hf_layerprune.publishing.stages import healings


def with_control(facts: CardFacts, place: Path, evaluation: str, healing: str, remedy: str) -> CardFacts:
    """The facts with the evaluation of the unpruned source after the same fine-tuning; PublishError where it is no such thing.

    place: the folder of its records; evaluation, healing: what they are called there; remedy: what to do where they do not fit.
    """
    if facts.healing is None:
        raise PublishError(f"{facts.name} was not healed, so no fine-tuning of its source is the same. {remedy}")
    report, tuned = read_optional(place / evaluation, EvalReport.load), read_optional(place / healing, HealingRecord.load)
    if report is None or tuned is None or (evaluation == EVALUATION and (place / PLAN).exists()):
        raise PublishError(f"{place}: no control: expected {healing} and {evaluation} of the unpruned source, and no {PLAN}. {remedy}")
    if tuned.checkpoint.fingerprint != facts.source.fingerprint:
        theirs = f"{shown(tuned.checkpoint.id)} with fingerprint {tuned.checkpoint.fingerprint[:12]}"
        raise PublishError(f"{place}: a control made from {theirs}, but this model was made from {facts.source.fingerprint[:12]}. {remedy}")
    if (times := len(healings(facts.stages))) > 1:
        raise PublishError(f"{facts.name} was healed {times} times, and a control is compared with one healing. {remedy}")
    if other := _differs(facts.healing, tuned):
        raise PublishError(f"{place}: not the same fine-tuning, {other} differs. Heal the source with the recipe and data of this model.")
    _check_comparable(facts, report, place)
    return replace(facts, control=report, control_healing=tuned)


def with_pruned(facts: CardFacts, path: Path, remedy: str) -> CardFacts:
    """The facts with the evaluation of the pruned model that was healed; PublishError where it is of another one."""
    if facts.plan is None or facts.healing is None:
        raise PublishError(f"{facts.name} is no pruned model that was healed, so there is none to compare with. {remedy}")
    report = read_optional(path, EvalReport.load)
    if report is None:
        raise PublishError(f"{path}: missing. Evaluate the pruned model first (`hf-layerprune evaluate`).")
    stage = facts.stages[-1 - len(healings(facts.stages))].source
    if report.model.fingerprint != stage.fingerprint:
        theirs = f"{shown(report.model.id)} with fingerprint {report.model.fingerprint[:12]}"
        raise PublishError(f"{path}: of {theirs}, but this model was healed from {stage.fingerprint[:12]}. {remedy}")
    _check_comparable(facts, report, path)
    return replace(facts, pruned=report)


def _check_comparable(facts: CardFacts, report: EvalReport, place: Path) -> None:
    """PublishError unless a report is on the same samples as the model's, asked and scored in the same way."""
    if not facts.evaluation or _samples(report) != _samples(facts.evaluation):
        raise PublishError(f"{place}: evaluated on other samples than this model. Evaluate both on the same ones.")
    if other := _asked_otherwise(report, facts.evaluation):
        raise PublishError(f"{place}: evaluated with another {other} than this model. Evaluate both with the same options.")


def _differs(ours: HealingRecord, theirs: HealingRecord) -> str | None:
    """The first thing that two fine-tunings do not share; which layers are trained follows from the model and may differ."""
    speed = ("micro_batch_size", "gradient_checkpointing")
    for key, value in vars(ours.recipe).items():
        if key not in speed and value != getattr(theirs.recipe, key):
            return key
    return "the data" if ours.data.digest != theirs.data.digest else "the seed" if ours.seed != theirs.seed else None


def _samples(report: EvalReport) -> list[tuple[Any, ...]]:
    return [(task.name, task.digest, task.samples) for task in report.tasks]


def _asked_otherwise(ours: EvalReport, theirs: EvalReport) -> str | None:
    """The first thing besides the samples in which two evaluations differ and that decides answers or scores."""
    mine, other = _settings(ours), _settings(theirs)
    return next((key.replace("_", " ") for key in mine if mine[key] != other[key]), None)


def _settings(report: EvalReport) -> dict[str, Any]:
    """What decides the answers and their scores; what an older report does not say was as it is by default."""
    asked, model = report.asked, report.model
    found = {"scorer": asked.scorer, "max_new_tokens": asked.max_new_tokens}
    return {**found, "dtype": model.environment.dtype, "decoding": model.settings.decoding}
