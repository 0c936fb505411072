"""Render the card: the template has all its sentences, `values` fills them, the front matter is for the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from hf_layerprune.artifacts.model_facts import is_hub_id
from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.escaping import Markdown, for_output
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import begin, end
from hf_layerprune.publishing.metadata import front_matter, metadata
from hf_layerprune.publishing.values import FILTERS, values

if TYPE_CHECKING:
    from jinja2 import Template


def render_card(facts: CardFacts) -> str:
    """The whole README.md: YAML front matter, then our parts between their markers. PublishError if a record is damaged."""
    from jinja2 import TemplateError

    try:
        found = metadata(facts)
        front = front_matter(found)
        body = _template().render(keys=Markdown(" ".join(found)), **values(facts))
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise PublishError(f"{facts.name}: a record does not hold what a card needs ({error!r}). Write that record again.") from error
    tidy = re.sub(r"\n{3,}", "\n\n", body).strip("\n")  # no untrusted text has a line break
    return f"{front}{tidy}\n"


def paper_number(table: int, test_set: str, row: str) -> Markdown:
    """An accuracy in % as a table of the domain-aware paper has it; KeyError if `paper_numbers.json` does not hold it."""
    return Markdown(f"{paper_tables()[str(table)][test_set][row]:.2f}")


@cache
def paper_tables() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """The numbers of the domain-aware paper that the card quotes: by table, test set and row."""
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
    environment.globals["fields"] = lambda value: [field.name for field in fields(value)]
    environment.globals |= {"begin": _marker(begin), "end": _marker(end), "paper": paper_number}
    return environment.from_string(_file("card.md.jinja"))


def _marker(make: Callable[[str], str]) -> Callable[[str], Markdown]:
    return lambda part: Markdown(make(part))


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
