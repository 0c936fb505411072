"""Render the card: the template has its sentences; here are the values that fill it, and the filters that make them safe to print."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.model_facts import is_hub_id
from hf_layerprune.artifacts.prompts import subtasks
from hf_layerprune.artifacts.scores import SIGNIFICANT, Row, Tally
from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.commands import command_lines, local_names
from hf_layerprune.publishing.escaping import Markdown, NotShown, argument, for_output, literal, name, place
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import begin, end
from hf_layerprune.publishing.metadata import front_matter, metadata
from hf_layerprune.strategies.planning import deepstack_warning

if TYPE_CHECKING:
    from jinja2 import Template

UNKNOWN = Markdown("not known")
NBSP = "\N{NO-BREAK SPACE}"  # within what a narrow column is not to break


def render_card(facts: CardFacts) -> str:
    """The whole README.md: YAML front matter, then our parts between their markers. PublishError if a record is damaged."""
    from jinja2 import TemplateError

    try:
        found = metadata(facts)
        body = _template().render(keys=Markdown(" ".join(found)), **_values(facts))
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise PublishError(f"{facts.name}: a record does not hold what a card needs ({error!r}). Write that record again.") from error
    tidy = re.sub(r"\n{3,}", "\n\n", body).strip("\n")  # no untrusted text has a line break
    return f"{front_matter(found)}{tidy}\n"


@cache
def paper_tables() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """The numbers of the domain-aware paper that the card quotes, in %: by table, test set and row."""
    found: Mapping[str, Mapping[str, Mapping[str, float]]] = json.loads(_file("paper_numbers.json"))["tables"]
    return found


@cache
def _template() -> Template:
    """The template, in which every value that is no Markdown of ours comes out as a code span."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, finalize=for_output, keep_trailing_newline=True, autoescape=False, line_statement_prefix="%%"
    )
    environment.filters |= FILTERS
    environment.tests["hub_id"] = is_hub_id
    environment.globals |= {
        "fields": lambda value: [field.name for field in fields(value)],
        "begin": lambda part: Markdown(begin(part)),
        "end": lambda part: Markdown(end(part)),
        "paper": lambda table, test_set, row: Markdown(f"{paper_tables()[str(table)][test_set][row]:.2f}"),
        "change": lambda before, after: Markdown(f"{100 * (after - before) / before:+.1f} %") if before and after else UNKNOWN,
        "score_in": _score_in,
        "verdict": _verdict,
        "blank": Markdown("\n"),
        "nbsp": Markdown(NBSP),
        "version": Markdown(version("hf-layerprune")),
    }
    return environment.from_string(_file("card.md.jinja"))


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _values(facts: CardFacts) -> dict[str, Any]:
    """What of the facts the template cannot say itself. Raises what a damaged record makes Python raise."""
    stages, report = facts.stages, facts.evaluation
    repeated = [source for stage in stages[facts.start + 1 :] if stage.healing for source in stage.healing.data.sources]
    return {
        "facts": facts,
        "stages": stages,
        "start": facts.start,
        "healings": facts.healings,
        "address": lambda figure: _address(facts.repo, figure),
        "deepstack_warning": _dropped_deepstack(facts),
        "probed": list(_probed_domains(facts)),
        "merged": facts.base_models if len(facts.base_models) > 1 else [],
        "loss": facts.healing.mean_losses if facts.healing else None,
        "whole": [report.row(task.name) for task in report.tasks] if report else [],
        "bounded": any(tally.spread[0] != "±" for tally in _tallies(report)) if report else False,
        "fewest": _fewest_samples(report) if report else 0,
        "quoted_name": literal(facts.repo or facts.name),
        "served": _served(facts),
        "commands": command_lines(facts),
        "local_names": list(dict.fromkeys(local_names(facts))),
        "problems_left_out": any(source.rendered_math and source.left_out for source in repeated),
    }


def _address(repo: str | None, figure: str) -> Markdown:
    """Where a figure lies. The Hub finds the `src` of an image in the repository; of a `srcset` nobody promises that: in full."""
    from huggingface_hub import constants

    return Markdown(f"layerprune/{figure}" if repo is None else f"{constants.ENDPOINT}/{repo}/resolve/main/layerprune/{figure}")


def _dropped_deepstack(facts: CardFacts) -> Markdown | None:
    if facts.plan is None:
        return None
    found = deepstack_warning(facts.plan, replace(facts.decoder, layers=facts.plan.layers, original_layers=None))
    return Markdown(found) if found else None


def _probed_domains(facts: CardFacts) -> Iterator[dict[str, Any]]:
    """Of each domain the number of images, their origin, passes through the model, and images that could not be used."""
    if facts.statistics is None:
        return
    record, tasks = facts.statistics.record, facts.statistics.subtasks
    for domain, found in record.probe_set["domains"].items():
        rows = [row for row, task in enumerate(tasks) if domain in ("math", "nonmath") and task in subtasks(domain)]
        yield {
            "label": {"math": Markdown("math"), "nonmath": Markdown("general")}.get(domain, domain),
            "images": found["images"],
            "origin": found["origin"],
            "passes": int(facts.statistics.samples[rows].sum()),
            "skipped": record.skipped_count.get(domain, 0),
        }


def _served(facts: CardFacts) -> Markdown:
    try:
        return argument(facts.repo) if facts.repo else place(facts.name)
    except NotShown:
        return Markdown("DIR")


def _tallies(report: EvalReport) -> list[Tally]:
    return [tally for row in report.rows for tally in (row.model, row.other) if tally and tally.samples]


def _fewest_samples(report: EvalReport) -> int:
    """The least samples of a row with a difference that is not significant; 0 if there is none."""
    rows = (row for row in report.rows if row.other and row.gained != row.lost)
    return min((row.model.samples for row in rows if not report.corrected[row.task, row.subtask] < SIGNIFICANT), default=0)


def _verdict(report: EvalReport, row: Row) -> Markdown:
    """In no words that a reader could take for "equal": few samples do not show a difference that may be there."""
    p = report.corrected[row.task, row.subtask]
    found = report.verdict(row) if p < SIGNIFICANT else f"not{NBSP}significant, p = {p:.3f}"
    return Markdown(found.replace("p = ", f"p{NBSP}={NBSP}").replace("p < ", f"p{NBSP}<{NBSP}"))


def score(tally: Tally) -> Markdown:
    """An accuracy in % with its standard error, or with the bound of its Wilson interval where that is 0."""
    sign, value = tally.spread
    return Markdown(f"{tally.accuracy:.2f}{NBSP}{sign}{NBSP}{value:.2f}" if tally.samples else "no samples")


def _score_in(report: EvalReport, row: Row) -> Markdown:
    """The score of another model on the samples of a row."""
    found = next((other for other in report.rows if (other.task, other.subtask) == (row.task, row.subtask)), None)
    return score(found.model) if found else Markdown("not measured")


def _difference(row: Row) -> Markdown:
    """Points of %, then % of the other model's accuracy."""
    if not row.model.samples:
        return Markdown("no samples")
    return Markdown(f"{row.difference:+.2f}, " + ("n/a" if math.isnan(row.relative) else f"{row.relative:+.1f}{NBSP}%"))


def _listed(numbers: Iterable[int]) -> Markdown:
    """Layer numbers as a person reads them: 4, 9 and 11."""
    *first, last = (f"{number:d}" for number in numbers)  # :d lets no text of a damaged record through
    return Markdown(f"{', '.join(first)} and {last}" if first else last)


FILTERS: Mapping[str, Callable[..., Markdown]] = {
    "ours": Markdown,
    "plainly": name,
    "listed": _listed,
    "thousands": lambda value: UNKNOWN if value is None else Markdown(f"{value:,}"),
    "whole": lambda value: Markdown(f"{value:d}"),
    "short": lambda value: Markdown(f"{float(value):g}"),
    "decimals": lambda value, places: Markdown(f"{value:,.{places:d}f}"),
    "score": score,
    "difference": _difference,
    "unbroken": lambda text: Markdown(text.replace(" ", NBSP)),
}
