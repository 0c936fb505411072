"""The scores of an evaluation as the card prints them: accuracies with their standard errors, differences and verdicts."""

from __future__ import annotations

import math

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.scores import Row, Tally
from hf_layerprune.artifacts.significance import SIGNIFICANT
from hf_layerprune.publishing.escaping import Markdown

NBSP = "\N{NO-BREAK SPACE}"  # within what a narrow column is not to break


def difference(row: Row) -> Markdown:
    """Points of %, then % of the other model's accuracy."""
    if not row.model.samples:
        return Markdown("no samples")
    relative = "n/a" if math.isnan(row.relative) else f"{row.relative:+.1f}{NBSP}%"
    return Markdown(f"{row.difference:+.2f}, {relative}")


def verdict(report: EvalReport, row: Row) -> Markdown:
    """In no words that a reader could take for "equal": few samples do not show a difference that may be there."""
    p = report.corrected[row.task, row.subtask]
    found = report.verdict(row) if p < SIGNIFICANT else f"not{NBSP}significant, p = {p:.3f}"
    return Markdown(found.replace("p = ", f"p{NBSP}={NBSP}").replace("p < ", f"p{NBSP}<{NBSP}"))


def score(tally: Tally) -> Markdown:
    """An accuracy in % with its standard error, or with the bound of its Wilson interval where that is 0."""
    sign, value = tally.spread
    return Markdown(f"{tally.accuracy:.2f}{NBSP}{sign}{NBSP}{value:.2f}" if tally.samples else "no samples")


def score_in(report: EvalReport, row: Row) -> Markdown:
    """The score of another model on the samples of a row."""
    found = next((other for other in report.rows if (other.task, other.subtask) == (row.task, row.subtask)), None)
    return score(found.model) if found else Markdown("not measured")


def error_note(report: EvalReport) -> str:
    """What the figure after ± is."""
    return "± is one standard error (binomial)." + _edge(report)


def _edge(report: EvalReport) -> str:
    tallies = [tally for row in report.rows for tally in (row.model, row.other) if tally and tally.samples]
    if not any(tally.spread[0] != "±" for tally in tallies):
        return ""
    return " Where all answers or none are correct, ≥ or ≤ gives the bound of the 95 % Wilson interval instead."


def fewest_samples(report: EvalReport) -> int:
    """The least samples of a row with a difference that is not significant; 0 if there is none."""
    rows = (row for row in report.rows if row.other and row.gained != row.lost)
    return min((row.model.samples for row in rows if not report.corrected[row.task, row.subtask] < SIGNIFICANT), default=0)
