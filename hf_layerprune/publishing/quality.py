"""What the card says of accuracy: counts, standard errors and verdicts as eval.json has them, and what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport, Row, Tally
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.significance import SIGNIFICANT
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.inert import code, name

NBSP = "\N{NO-BREAK SPACE}"  # within what a narrow column is not to break
PRUNED_MISSING = "The pruned model before fine-tuning was **not measured**, so what the fine-tuning changed is not known."
CONTROL_MISSING = (
    "What the same fine-tuning does to the unpruned source was **not measured**, so how much of the difference is due to the fine-tuning "
    "itself is not known."
)


def headline(facts: CardFacts) -> list[str]:
    """Each task's accuracy against the source's in one line, so that nobody has to search for it."""
    report = facts.evaluation
    if report is None:
        return ["**Its quality was not measured.**"]
    rows = [report.row(str(task["name"])) for task in report.tasks]
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
    place = report.environment.get("model", {})
    setting = f"{name(place.get('dtype', 'unknown type'))} on {name(place.get('device', 'unknown device'))}"
    versions = ", ".join(f"{key} {name(place[key])}" for key in ("hf-layerprune", "torch", "transformers") if key in place)
    who = "of both models to the same" if report.against else "to"
    return [f"Greedy answers {who} held-out samples, in {setting} ({versions}):", "", *map(_asked, report.tasks)]


def _asked(task: Mapping[str, Any]) -> str:
    found = {"origin": task.get("origin"), "revision": task.get("revision"), "seed": task.get("seed"), "sha256": task.get("digest")}
    rest = ", ".join(f"{key} {code(value)}" for key, value in found.items() if value is not None)
    return f"- {task['samples']:,} of {code(task['name'])}: {rest}"


def _table(facts: CardFacts, report: EvalReport) -> Iterator[str]:
    compared, other = report.against is not None, "source" if _is_source(facts, report) else "other model"
    own = "healed" if facts.plan and facts.healing else "this model"
    head = ["accuracy in %", "samples", *([other] if compared else []), *(["pruned"] if facts.pruned else []), own]
    head += ["control"] if facts.control else []
    head += ["difference (points, relative)", "verdict"] if compared else []
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if words in (head[0], 'verdict') else '---:' for words in head)}|"
    for row in report.rows:
        cells = [code(row.name) if row.subtask is not None else f"**{code(row.task)}**,{NBSP}all", f"{row.model.samples:,}"]
        cells += [score(row.other)] if row.other else []
        cells += [_score_of(facts.pruned, row)] if facts.pruned else []
        cells.append(score(row.model))
        cells += [_score_of(facts.control, row)] if facts.control else []
        cells += [_difference(row).replace(" ", NBSP), _verdict(report, row)] if compared else []
        yield f"| {' | '.join(cells)} |"


def _score_of(report: EvalReport, row: Row) -> str:
    """The score of another model on the samples of a row."""
    found = next((other for other in report.rows if (other.task, other.subtask) == (row.task, row.subtask)), None)
    return score(found.model) if found else "not measured"


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
    for row in (report.row(str(task["name"])) for task in report.tasks):
        if row.bad:
            yield f"{row.bad:,} records of {code(row.task)} could not be used and count for no model."
        if row.model.truncated:
            yield f"{row.model.truncated:,} of this model's answers to {code(row.task)} were truncated at the limit of tokens."
        if row.other and row.other.truncated:
            yield f"{row.other.truncated:,} of the other model's answers to {code(row.task)} were truncated at the limit of tokens."
    if facts.plan and facts.healing:
        yield from _stages(facts, report)
    yield "Benchmarks other than these were not measured."


def _edge(report: EvalReport) -> str:
    tallies = [tally for row in report.rows for tally in (row.model, row.other) if tally and tally.samples]
    if not any(tally.correct in (0, tally.samples) for tally in tallies):
        return ""
    return " Where all answers or none are correct, ≥ or ≤ gives the bound of the 95 % Wilson interval instead."


def _hidden(report: EvalReport, row: Row) -> bool:
    """Whether there is a difference that is not significant."""
    return row.other is not None and row.gained != row.lost and not report.corrected[row.task, row.subtask] < SIGNIFICANT


def _stages(facts: CardFacts, report: EvalReport) -> Iterator[str]:
    """What the columns of a healed model are, and which are missing."""
    if facts.pruned:
        yield "pruned is the model before it was fine-tuned, healed is this one."
    else:
        yield PRUNED_MISSING
    if report.against:
        yield "Difference and verdict compare healed with " + ("source." if _is_source(facts, report) else "the other model.")
    if facts.control is None or facts.control_healing is None:
        yield CONTROL_MISSING
        return
    yield "control is the unpruned source, fine-tuned with the same recipe on the same data."
    if differences := list(_trained_otherwise(facts.healing, facts.control_healing)):
        yield f"The control was not trained just like healed: {', '.join(differences)}."


def _trained_otherwise(ours: HealingRecord | None, theirs: HealingRecord) -> Iterator[str]:
    """In what the training of the control differs from the model's: which layers follows from each model."""
    assert ours
    layers, other = ours.trained.layers, theirs.trained.layers
    if layers != other:
        yield f"{_amount(len(other), len(layers))} layers ({_numbers(other)}, healed {_numbers(layers)})"
    for what, mine, control in (
        ("parameters", ours.trained.parameters, theirs.trained.parameters),
        ("steps", ours.steps, theirs.steps),
    ):
        if mine != control:
            yield f"{_amount(control, mine)} {what} ({control:,}, healed {mine:,})"


def _amount(theirs: int, ours: int) -> str:
    return "other" if theirs == ours else "more" if theirs > ours else "fewer"


def _numbers(layers: Sequence[int]) -> str:
    """Layers as a person reads them: 5, 6 and 10; all of them where adapters are on every one."""
    *first, last = [f"{layer:d}" for layer in layers] or ["adapters on all"]
    return f"{', '.join(first)} and {last}" if first else last
