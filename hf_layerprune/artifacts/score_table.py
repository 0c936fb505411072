"""The scores of an evaluation as a table of 80 columns, readable without colours, and notes under it."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from hf_layerprune.artifacts.display import by_reason, html_table

if TYPE_CHECKING:
    from hf_layerprune.artifacts.eval_report import EvalReport
    from hf_layerprune.artifacts.scores import Row, Tally

ASCII = {"±": "+-", "≥": ">=", "≤": "<="}
NAME, SCORE, CHANGE = 15, 13, 19  # columns, each with a space; 19 more for the verdict make 80


def score_lines(report: EvalReport) -> list[str]:
    """A head, a row for every subtask, and one for every task that has several."""
    lines = [_head(report)]
    for place, row in enumerate(report.rows):
        if place and row.task != report.rows[place - 1].task:
            lines.append("")
        lines.append(_line(report, row))
    return lines


def note_lines(report: EvalReport, longer: str = "max_new_tokens") -> list[str]:
    """How many samples, how the answers were generated, what was skipped or truncated, and what the p values are.

    longer: what to call the option that allows longer answers.
    """
    whole = [report.row(task.name) for task in report.tasks]
    counts = " + ".join(f"{row.model.samples} of {row.task}" for row in whole)
    place = report.model.environment
    how = f"greedy, {place.dtype} on {place.device}, in {report.seconds:.0f} s"
    lines = [f"samples {counts}", f"        {how}; {_shown('±')} one standard error"]
    if any(sign != "±" for sign in _signs(report)):
        lines.append(f"        {_shown('≥')}, {_shown('≤')} the bound of the 95 % Wilson interval, at 100 and at 0 %")
    if report.against is not None:
        test = "exact McNemar" if all(row.binary for row in report.rows) else "exact McNemar, or sign flips,"
        lines.append(f"p       {test} on the same samples; a difference is one below 0.05 after")
        lines.append(f"        Holm's correction over {_family(report)}")
    for row in whole:
        lines += _warnings(report, row, longer)
    return lines


def html_scores(report: EvalReport) -> str:
    """The same table and notes for a notebook."""
    models = ["", *([report.against.id] if report.against else []), report.model.id]
    rows = []
    for row in report.rows:
        name = row.name if row.subtask is None else f"\N{EM SPACE}{row.name}"
        paired = [_score(row.other), _score(row.model), _change(row), report.verdict(row)] if row.other else [_score(row.model)]
        rows.append([name, *paired])
    return html_table([*models, *(["difference, in points and in %", "paired"] if report.against else [])], rows, note_lines(report))


def _head(report: EvalReport) -> str:
    model = report.model.id.rpartition("/")[2]
    if report.against is None:
        return f"{'':{NAME + 1}}{_fit(model, 60)}"
    other = _fit(report.against.id.rpartition("/")[2], SCORE - 1)
    return f"{'':{NAME + 1}}{other:<{SCORE}}{_fit(model, SCORE + CHANGE - 1):<{SCORE + CHANGE}}paired"


def _line(report: EvalReport, row: Row) -> str:
    name = f" {_fit(row.name, NAME - 1):<{NAME}}"
    if row.other is None:
        return name + _score(row.model)
    return f"{name}{_score(row.other) + ' ':<{SCORE}}{_score(row.model) + ' ':<{SCORE}}{_change(row):<{CHANGE}}{report.verdict(row)}"


def _change(row: Row) -> str:
    relative = "n/a" if math.isnan(row.relative) else f"{row.relative:+.1f} %"
    return f"({row.difference:+.1f}, {relative})" if row.model.samples else ""


def _score(tally: Tally) -> str:
    sign, value = tally.spread
    return f"{tally.accuracy:5.1f} {_shown(sign)} {value:.1f}" if tally.samples else "  no samples"


def _signs(report: EvalReport) -> set[str]:
    tallies = [tally for row in report.rows for tally in (row.model, row.other) if tally and tally.samples]
    return {tally.spread[0] for tally in tallies}


def _family(report: EvalReport) -> str:
    parts = sum(row.subtask is not None for row in report.rows)
    tasks = len(report.rows) - parts
    return f"{parts} subtasks" + (f", {tasks} tasks" if tasks > 1 else "")


def _warnings(report: EvalReport, row: Row, longer: str) -> list[str]:
    models = [(report.model.id, row.model)] + ([(report.against.id, row.other)] if report.against and row.other else [])
    lines = [
        f"note    {tally.truncated} of {tally.samples} answers of {name} to {row.task} are truncated: raise {longer}"
        for name, tally in models
        if tally.truncated
    ]
    if row.unusable:
        lines.append(f"skipped {row.unusable} of {row.unusable + row.model.samples} records of {row.task}, which are unusable:")
        lines += [f"  {line}" for line in by_reason(report.skipped)[:5]]
    return lines


def _fit(text: str, width: int) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= width else f"{plain[: width - 2]}.."


def _shown(sign: str) -> str:
    """The sign, or what stands for it where stdout cannot show it."""
    try:
        sign.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII[sign]
    return sign
