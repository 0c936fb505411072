"""What the card's template is given: the facts, what follows from them by arithmetic, and filters that make values safe to print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from hf_layerprune.artifacts.healing_record import HealingRecord, SourceReport
from hf_layerprune.artifacts.prompts import subtasks
from hf_layerprune.publishing.commands import command_lines, local_names, start_of
from hf_layerprune.publishing.escaping import Markdown, NotShown, argument, literal, name, place
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.quality import NBSP, difference, error_note, fewest_samples, score, score_in, verdict
from hf_layerprune.publishing.stages import healings
from hf_layerprune.strategies.planning import deepstack_warning

UNKNOWN = Markdown("not known")


def values(facts: CardFacts) -> dict[str, Any]:
    """The names that the template uses. Raises what a damaged record makes Python raise."""
    stages, report = facts.stages, facts.evaluation
    return {
        "facts": facts,
        "stages": stages,
        "start": start_of(stages),
        "healings": healings(stages),
        "blank": Markdown("\n"),
        "nbsp": Markdown(NBSP),
        "version": Markdown(version("hf-layerprune")),
        "address": lambda figure: address(facts.repo, figure),
        "change": change,
        "deepstack_warning": dropped_deepstack(facts),
        "probed": list(probed_domains(facts)),
        "loss": loss_means(facts.healing) if facts.healing else None,
        "whole": [report.row(task.name) for task in report.tasks] if report else [],
        "error_note": Markdown(error_note(report)) if report else None,
        "fewest": fewest_samples(report) if report else 0,
        "verdict": lambda row: verdict(report, row) if report else None,
        "score_in": score_in,
        "quoted_name": literal(facts.repo or facts.name),
        "served": served(facts),
        "commands": command_lines(facts),
        "local_names": list(dict.fromkeys(local_names(facts))),
        "problems_left_out": any(source.rendered_math and source.left_out for source in healing_sources(facts)),
    }


def listed(numbers: Iterable[int]) -> Markdown:
    """Layer numbers as a person reads them: 4, 9 and 11."""
    *first, last = (f"{number:d}" for number in numbers)  # :d lets no text of a damaged record through
    return Markdown(f"{', '.join(first)} and {last}" if first else last)


def change(before: int | None, after: int | None) -> Markdown:
    """From one size to another, in %."""
    return Markdown(f"{100 * (after - before) / before:+.1f} %") if before and after else UNKNOWN


def address(repo: str | None, figure: str) -> Markdown:
    """Where a figure lies. The Hub finds the `src` of an image in the repository; of a `srcset` nobody promises that: in full."""
    if repo is None:
        return Markdown(f"layerprune/{figure}")
    from huggingface_hub import constants

    return Markdown(f"{constants.ENDPOINT}/{repo}/resolve/main/layerprune/{figure}")


def dropped_deepstack(facts: CardFacts) -> Markdown | None:
    if facts.plan is None:
        return None
    before = replace(facts.decoder, layers=facts.plan.layers, original_layers=None)
    found = deepstack_warning(facts.plan, before)
    return Markdown(found) if found else None


def probed_domains(facts: CardFacts) -> Iterator[dict[str, Any]]:
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


def loss_means(healing: HealingRecord) -> tuple[float, float]:
    """The mean loss over the first and the last tenth of the steps, at least one step each, in nats an answer token."""
    loss, tenth = healing.curve["loss"], max(1, healing.steps // 10)
    return sum(loss[:tenth]) / tenth, sum(loss[-tenth:]) / tenth


def served(facts: CardFacts) -> Markdown:
    try:
        return argument(facts.repo) if facts.repo else place(facts.name)
    except NotShown:
        return Markdown("DIR")


def healing_sources(facts: CardFacts) -> list[SourceReport]:
    """The data of the fine-tunings that the card's commands repeat."""
    stages = facts.stages[start_of(facts.stages) + 1 :]
    return [source for stage in stages if stage.healing for source in stage.healing.data.sources]


FILTERS: Mapping[str, Callable[..., Markdown]] = {
    "ours": Markdown,
    "plainly": name,
    "listed": listed,
    "thousands": lambda value: UNKNOWN if value is None else Markdown(f"{value:,}"),
    "whole": lambda value: Markdown(f"{value:d}"),
    "short": lambda value: Markdown(f"{float(value):g}"),
    "decimals": lambda value, places: Markdown(f"{value:,.{places:d}f}"),
    "score": score,
    "difference": difference,
    "unbroken": lambda text: Markdown(text.replace(" ", NBSP)),
}
