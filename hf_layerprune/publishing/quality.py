"""What the card says of accuracy: counts, standard errors and verdicts as eval.json has them, and what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport, TaskRecord
from hf_layerprune.artifacts.scores import Row, Tally
from hf_layerprune.artifacts.significance import SIGNIFICANT
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.inert import code, name

NBSP = "\N{NO-BREAK SPACE}"  # within what a narrow column is not to break
CONTROL_MISSING = (
    "What the same fine-tuning does to the unpruned source was **not measured**, so how much of the difference is due to the fine-tuning "
    "itself is not known."
)


def headline(facts: CardFacts) -> list[str]:
    """Each task's accuracy against the source's in one line, so that nobody has to search for it."""
    report = facts.evaluation
    if report is None:
        return ["**Its quality was not measured.**"]
    rows = [report.row(task.name) for task in report.tasks]
    return [f"Accuracy in % ± one standard error, {against(facts, report)}: " + "; ".join(map(_in_short, rows)) + "."]


def against(facts: CardFacts, report: EvalReport) -> str:
    if report.against is None:
        return "compared with no other model"
    if report.against.fingerprint == facts.source.fingerprint:
        return f"and the difference to {code(facts.source.id)} in points and relative to it"
    return f"and the difference to {code(report.against.id)}, which is not the source, in points and relative to it"


def _in_short(row: Row) -> str:
    difference = f"{_difference(row)}; " if row.other else ""
    return f"{code(row.task)} {score(row.model)} ({difference}{row.model.samples:,} samples)"


def _difference(row: Row) -> str:
    """Points of %, then % of the other model's accuracy."""
    if not row.model.samples:
        return "no samples"
    relative = "n/a" if math.isnan(row.relative) else f"{row.relative:+.1f}{NBSP}%"
    return f"{row.difference:+.2f}, {relative}"


def _verdict(report: EvalReport, row: Row) -> str:
    """In no words that a reader could take for "equal": what few samples do not show may be there all the same."""
    p = report.corrected[row.task, row.subtask]
    found = report.verdict(row) if p < SIGNIFICANT else f"not{NBSP}significant, p = {p:.3f}"
    return found.replace("p = ", f"p{NBSP}={NBSP}").replace("p < ", f"p{NBSP}<{NBSP}")


def quality_lines(facts: CardFacts) -> list[str]:
    report = facts.evaluation
    if report is None:
        return ["Not measured: there is no record of an evaluation."]
    return [*_intro(facts, report), "", *_table(facts, report), "", *_notes(facts, report)]


def _intro(facts: CardFacts, report: EvalReport) -> list[str]:
    place = report.model.environment
    setting = f"{name(place.dtype)} on {name(place.device)}"
    versions = f"hf-layerprune {name(place.hf_layerprune)}, torch {name(place.torch)}, transformers {name(place.transformers)}"
    who = "of both models to the same" if report.against else "to"
    return [f"Greedy answers {who} held-out samples, in {setting} ({versions}):", "", *map(_asked, report.tasks)]


def _asked(task: TaskRecord) -> str:
    found = {"origin": task.origin, "revision": task.revision, "seed": task.seed, "sha256": task.digest}
    rest = ", ".join(f"{key} {code(value)}" for key, value in found.items() if value is not None)
    return f"- {task.samples:,} of {code(task.name)}: {rest}"


def _table(facts: CardFacts, report: EvalReport) -> Iterator[str]:
    control = {(row.task, row.subtask): row for row in facts.control.rows} if facts.control else {}
    compared, other = report.against is not None, "source" if _is_source(facts, report) else "other model"
    head = ["accuracy in %", "samples", *([other] if compared else []), "this model"]
    head += ["difference (points, relative)", "verdict"] if compared else []
    head += ["control"] if control else []
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if words in (head[0], 'verdict') else '---:' for words in head)}|"
    for row in report.rows:
        cells = [code(row.name) if row.subtask is not None else f"**{code(row.task)}**,{NBSP}all", f"{row.model.samples:,}"]
        cells += [score(row.other)] if row.other else []
        cells.append(score(row.model))
        cells += [_difference(row).replace(" ", NBSP), _verdict(report, row)] if compared else []
        cells += (
            [score(control[row.task, row.subtask].model)] if (row.task, row.subtask) in control else ["not measured"] if control else []
        )
        yield f"| {' | '.join(cells)} |"


def _is_source(facts: CardFacts, report: EvalReport) -> bool:
    return report.against is not None and report.against.fingerprint == facts.source.fingerprint


def score(tally: Tally) -> str:
    sign, value = tally.spread
    return f"{tally.accuracy:.2f}{NBSP}{sign}{NBSP}{value:.2f}" if tally.samples else "no samples"


def _notes(facts: CardFacts, report: EvalReport) -> Iterator[str]:
    yield "± is one standard error (binomial)." + _edge(report)
    if report.against:
        if not _is_source(facts, report):
            yield f"Compared with {code(report.against.id)}, which is not this model's source."
        yield "The verdict is that of an exact McNemar test on the same samples, p corrected after Holm; a difference is one below 0.05."
        if least := min((row.model.samples for row in report.rows if _hidden(report, row)), default=0):
            yield f"Not significant does not mean equal: as few as {least:,} samples show large differences only."
    else:
        yield "The source was **not measured** in this evaluation, so what the pruning cost is not known."
    for row in (report.row(task.name) for task in report.tasks):
        if row.unusable:
            yield f"{row.unusable:,} records of {code(row.task)} could not be used and count for no model."
        if row.model.truncated:
            yield f"{row.model.truncated:,} of this model's answers to {code(row.task)} were truncated at the limit of tokens."
        if row.other and row.other.truncated:
            yield f"{row.other.truncated:,} of the other model's answers to {code(row.task)} were truncated at the limit of tokens."
    if facts.plan and facts.control is None and facts.healing:
        yield CONTROL_MISSING
    elif facts.control:
        yield "The control is the unpruned source after the same recipe on the same data: what the fine-tuning alone does."
        yield from _trained_otherwise(facts)
    yield "Benchmarks other than these were not measured."


def _edge(report: EvalReport) -> str:
    tallies = [tally for row in report.rows for tally in (row.model, row.other) if tally and tally.samples]
    if not any(tally.spread[0] != "±" for tally in tallies):
        return ""
    return " Where all answers or none are correct, ≥ or ≤ gives the bound of the 95 % Wilson interval instead."


def _hidden(report: EvalReport, row: Row) -> bool:
    """Whether there is a difference that is not significant."""
    return row.other is not None and row.gained != row.lost and not report.corrected[row.task, row.subtask] < SIGNIFICANT


def _trained_otherwise(facts: CardFacts) -> Iterator[str]:
    """What the control trained, where that is not what this model trained: each model's layers are its own."""
    assert facts.healing and facts.control_healing
    ours, theirs = facts.healing.trained, facts.control_healing.trained
    if [ours["layers"], ours["parameters"]] != [theirs["layers"], theirs["parameters"]]:
        yield f"It trained {_trained(theirs)}; this model {_trained(ours)}."


def _trained(found: Mapping[str, Any]) -> str:
    """Parameters, and the layers that they are in."""
    *first, last = [f"{layer:d}" for layer in found["layers"]] or [""]
    layers = f"layer{'s' if first else ''} {' and '.join(filter(None, [', '.join(first), last]))}" if last else "adapters on every layer"
    return f"{found['parameters']:,} parameters in {layers}"
