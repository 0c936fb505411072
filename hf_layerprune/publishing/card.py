"""The model card: a README.md that says what a model is, what was done to it and what that cost, from its records alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hf_layerprune.artifacts.folder import CONTROL_EVALUATION, CONTROL_HEALING, LICENSE, MANIFEST, PRUNED_EVALUATION, README, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json, read_bounded, write_atomic
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.publishing.facts import CardFacts, Named
from hf_layerprune.publishing.figures import draw_figures, kept_figures
from hf_layerprune.publishing.inert import Markdown, for_output
from hf_layerprune.publishing.merge import begin, end, merge_card, our_parts
from hf_layerprune.publishing.metadata import metadata, yaml_lines
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.sections import numbers, sections, thousands

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["CardFacts", "card_facts", "merge_card", "metadata", "our_parts", "render_card", "write_card"]

MAX_CARD_BYTES = 8 << 20


def render_card(facts: CardFacts) -> str:
    """The whole README.md: YAML front matter, then our parts between their markers. PublishError if a record is damaged."""
    from jinja2 import TemplateError

    try:
        found = metadata(facts)
        front = "".join(yaml_lines(key, value) for key, value in found.items())
        body = _template().render(
            begin=_marker(begin), end=_marker(end), keys=Markdown(" ".join(found)), paper=paper_number, **sections(facts)
        )
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise PublishError(f"{facts.name}: a record does not hold what a card needs ({error!r}). Make that record again.") from error
    tidy = re.sub(r"\n{3,}", "\n\n", body).rstrip("\n")  # no text of a stranger has a line break
    return f"---\n{front}---\n{tidy}\n"


def write_card(
    folder: Path,
    output: Path | None = None,
    *,
    repo: str | None = None,
    **named: Unpack[Named],
) -> Path:
    """Write a folder's card and its figures, merged with the card that is there; the path of the card. Where matplotlib is missing,
    the figures of an earlier card are kept.

    output: another file for it, which gets the figures beside it; needed where the folder is a download, which is left as it is.
    repo: the id that it is pushed to, for its quick start. named: license, control and pruned, as card_facts has them; what they
    say is put beside the card, and the next card finds it there.
    PublishError if the folder is none of ours, or the card that is there cannot be merged; then nothing is changed.
    """
    facts = card_facts(folder, **named)
    place = _place(Path(folder), output)
    pictures = draw_figures(facts) or kept_figures(Path(folder), facts)
    beside = pictures | _named_records(facts, named)
    card = render_card(replace(facts, figures=frozenset(pictures), repo=repo))
    try:
        if place.is_file():
            card = merge_card(_read(place), card)
        _write(place, card, beside)
    except OSError as error:
        raise PublishError(f"{place}: writing it failed: {error.strerror or error}. Choose another place with -o.") from error
    except LayerPruneError as error:
        raise PublishError(f"{place}: {error}" if str(place) not in str(error) else str(error)) from error
    return place


def _write(place: Path, card: str, beside: Mapping[str, bytes]) -> None:
    """The card last, so that it shows nothing that is not there; where that fails, a folder that was made for it goes."""
    records = place.parent / RECORDS
    made = bool(beside) and not records.exists()
    try:
        if made:
            records.mkdir()
        for name, content in beside.items():
            write_atomic(records / name, content)
        write_atomic(place, card.encode("utf-8", "replace"))
    except BaseException:
        if made:
            shutil.rmtree(records, ignore_errors=True)
        raise


def _named_records(facts: CardFacts, named: Named) -> dict[str, bytes]:
    """What was named for this card goes with the model: the license, and the records of the models that it is compared with."""
    found: dict[str, bytes] = {}
    if named.get("control") and facts.control and facts.control_healing:
        found = {CONTROL_EVALUATION: dump_json(facts.control.to_dict()), CONTROL_HEALING: facts.control_healing.dump()}
    if named.get("pruned") and facts.pruned:
        found[PRUNED_EVALUATION] = dump_json(facts.pruned.to_dict())
    if license := named.get("license"):
        found[LICENSE] = dump_json({"format": 1, "license": license})
    return found


def _place(folder: Path, output: Path | None) -> Path:
    """Where the card goes: into a folder that we made, else to a file that is named."""
    place = output or folder / README
    if place.is_dir():
        place = place / README
    if not place.parent.is_dir():
        raise PublishError(f"{place}: there is no folder {place.parent} to write into. Create it first (mkdir -p).")
    own, beside = place.parent.resolve() == folder.resolve(), place.parent / RECORDS
    if place.is_symlink() or (own and (folder / RECORDS / MANIFEST).is_symlink()):
        raise PublishError(f"{place}: a link, as in a download's cache, which is left as it is. Name a file for the card with -o.")
    if beside.is_symlink():
        raise PublishError(f"{beside}: a link, and the card's figures go there. Name a place for the card with -o.")
    if not own and os.path.lexists(beside / MANIFEST):
        raise PublishError(f"{place}: {place.parent} holds another model, whose records are left as they are. Name another place with -o.")
    return place


def _read(path: Path) -> str:
    try:
        return read_bounded(path, "model card", MAX_CARD_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{path}: the card that is there is no UTF-8 text ({error.reason}). Correct it, or move it away.") from error


def _marker(make: Any) -> Any:
    return lambda part: Markdown(make(part))


def paper_number(table: int, test_set: str, row: str) -> Markdown:
    """An accuracy in % as a table of the domain-aware paper has it; KeyError if `paper_numbers.json` does not hold it."""
    return Markdown(f"{paper_tables()[str(table)][test_set][row]:.2f}")


@cache
def paper_tables() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """The numbers of the domain-aware paper that the card quotes: by table, test set and row."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("paper_numbers.json").read_text(encoding="utf-8"))
    return {table: dict(rows) for table, rows in found["tables"].items()}


@cache
def _template() -> Template:
    """The template, in which every value that is no Markdown of ours comes out as a code span."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, finalize=for_output, keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"numbers": numbers, "thousands": thousands, "ours": Markdown}
    return environment.from_string(files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8"))
