"""The sentences and tables of a card, one function a section; every number in them is a record's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.publishing.chain import healings
from hf_layerprune.publishing.commands import command_lines
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.inert import Markdown, NotShown, argument, code, literal, name, place
from hf_layerprune.publishing.pictures import loss_means, loss_picture, map_picture
from hf_layerprune.publishing.quality import headline, quality_lines
from hf_layerprune.publishing.story import lineage_lines, method, named, origin_lines, reproduce_intro, reproduce_notes, title_lines


def sections(facts: CardFacts) -> dict[str, Any]:
    """What the template is given."""
    plan = facts.plan
    return {
        "title": name(facts.name),
        "title_lines": _marked(title_lines(facts)),
        "served": _served(facts),
        "quoted_name": literal(facts.repo or facts.name),
        "source": named(facts.source),
        "plan": plan,
        "removed": _layers(plan.drop) if plan else None,
        "healing": facts.healing,
        "headline": [Markdown(line) for line in headline(facts)],
        "size_rows": size_rows(facts) if plan else [],
        "origin_lines": _marked(origin_lines(facts)),
        "how_lines": _marked(how_lines(facts, plan)) if plan else [],
        "probe_lines": _marked(probe_lines(facts, plan)) if plan else [],
        "map_figure": map_picture(facts),
        "healing_lines": _marked(healing_lines(facts)),
        "recipe_rows": recipe_rows(facts),
        "loss_figure": loss_picture(facts),
        "quality_lines": _marked(quality_lines(facts)),
        "reproduce_intro": _marked(reproduce_intro(facts)),
        "commands": _marked(command_lines(facts)),
        "reproduce_notes": _marked(reproduce_notes(facts)),
        "licence_lines": _marked(licence_lines(facts)),
    }


def numbers(values: Iterable[int]) -> Markdown:
    """Layer numbers as a person reads them: 4, 9 and 11."""
    *first, last = (f"{value:d}" for value in values)  # :d lets no text of a damaged record through
    return Markdown(f"{', '.join(first)} and {last}" if first else last)


def thousands(value: int) -> Markdown:
    return Markdown(f"{value:,}")


def _layers(layers: Sequence[int]) -> Markdown:
    return Markdown(f"{'layer' if len(layers) == 1 else 'layers'} {numbers(layers)}")


def size_rows(facts: CardFacts) -> list[tuple[Markdown, ...]]:
    sizes, dropped = facts.sizes, facts.sizes.dropped
    return [
        _row("decoder layers", facts.layers + dropped, facts.layers),
        _row("parameters", sizes.parameters_before, sizes.parameters),
        _row("bytes of weights", sizes.bytes_before, sizes.bytes),
    ]


def _row(label: str, before: int | None, after: int | None) -> tuple[Markdown, ...]:
    change = f"{100 * (after - before) / before:+.1f} %" if before and after else "not known"
    numbers = (f"{value:,}" if value is not None else "not known" for value in (before, after))
    return tuple(map(Markdown, (label, *numbers, change)))


def how_lines(facts: CardFacts, plan: PruningPlan) -> list[str]:
    lines = [
        f"Method: {method(plan)}" + (f", {_parameters(plan)}" if plan.parameters else "") + ".",
        f"Scores: {code(plan.score_meaning)}.",
    ]
    lines.append(f"Budget: {_budget(plan.budget, plan.layers)}.")
    lines.append(f"Protected: {_protected(facts, plan)}.")
    if plan.forced:
        lines.append(f"Forced, protected and removed all the same: {_layers(plan.forced)}.")
    if plan.relaxed:
        reached = f"only {len(plan.strict_drop)} of {len(plan.drop)} layers"
        lines.append(f"Relaxed: the method's own spacing rule reaches {reached}; the removed layers are only not adjacent.")
    if plan.tune:
        lines.append(
            f"INTERLACE's sets, as layers of the source: to tune {numbers(plan.tune)}"
            + (f", to freeze {numbers(plan.freeze)}" if plan.freeze else "")
            + ("." if facts.healing else " (not used: not fine-tuned).")
        )
    if caution := _deepstack(facts, plan):
        lines.append(f"**Warning:** {caution}")
    return lines


def _budget(budget: Budget, layers: int) -> str:
    count = f"{budget.layers} layer{'s' if budget.layers > 1 else ''}"
    if budget.of == "layers":
        return f"{count}, named by hand"
    if budget.of == "count" or budget.asked is None:
        return f"{count}, asked for as a number"
    of = f"the {layers - 2} layers between the first and the last" if budget.of == "middle" else f"all {layers} layers"
    return f"{code(budget.asked)} of {of}, rounded down: {count}"


def _protected(facts: CardFacts, plan: PruningPlan) -> str:
    """The layers that may not go, and why, as far as that follows from where they are."""
    if not plan.protected:
        return "no layer"
    first, last = 0 in plan.protected, plan.layers - 1 in plan.protected
    ends = " and ".join(word for word, there in (("the first", first), ("the last", last)) if there)
    fed = [layer for layer in plan.protected if layer < facts.deepstack_layers]
    reasons = [ends] if ends else []
    reasons += [f"{_layers(fed)}, after which visual features are added (DeepStack)"] if len(fed) > first else []
    return f"{_layers(plan.protected)}" + (f": {', and '.join(reasons)}" if reasons else "")


def _parameters(plan: PruningPlan) -> str:
    return ", ".join(f"{code(key)} = {code(value)}" for key, value in plan.parameters.items())


def _deepstack(facts: CardFacts, plan: PruningPlan) -> str | None:
    from hf_layerprune.artifacts.model_facts import ModelFacts
    from hf_layerprune.strategies.planning import deepstack_warning

    before = ModelFacts(plan.source, facts.family, plan.layers, facts.hidden_size, facts.deepstack_layers)
    return deepstack_warning(plan, before)


def probe_lines(facts: CardFacts, plan: PruningPlan) -> list[str]:
    """The probe set, by domain."""
    statistics = facts.statistics
    if plan.statistics is None:
        return ["", "The plan was made without probing the model."]
    if statistics is None:
        missing = "which do not lie here, so the probe set is not known"
        return ["", f"The plan was made from statistics with the sha256 {code(plan.statistics)}, {missing}."]
    record, domains = statistics.record, statistics.record.probe_set["domains"]
    lines = [
        "",
        "The layers were measured on this probe set:",
        "",
        "| pictures | number | origin | passes | left out |",
        "|---|---:|---|---:|---:|",
    ]
    from hf_layerprune.artifacts.prompts import subtasks

    for domain, found in domains.items():
        rows = [row for row, task in enumerate(statistics.subtasks) if domain in ("math", "nonmath") and task in subtasks(domain)]
        passes = int(statistics.samples[rows].sum())
        label = {"math": "math", "nonmath": "general"}.get(domain) or code(domain)
        lines.append(f"| {label} | {found['images']:,} | {code(found['origin'])} | {passes:,} | {record.skipped_count.get(domain, 0):,} |")
    settings = ", ".join(
        f"{key} {code(record.settings[key])}" for key in ("device", "dtype", "torch", "transformers") if key in record.settings
    )
    return [
        *lines,
        "",
        f"A pass is one picture with one of the paper's {len(statistics.subtasks)} prompts; left out are pictures that could not be used. "
        f"Measured on {settings}.",
        f"Fingerprint of the probe set: {code(record.probe_set.get('fingerprint', 'none'))}.",
    ]


def healing_lines(facts: CardFacts) -> list[str]:
    record = facts.healing
    if record is None:
        return []
    recipe, trained, engine = record.recipe, record.trained, record.engine
    first, last_loss = loss_means(record)
    changed = ", ".join(f"{code(key)} = {code(getattr(recipe, key))}" for key in record.overridden)
    what = (
        f"{_layers(trained.layers)}, chosen by {name(trained.chosen_by)}" if trained.layers else "adapters on every decoder layer, merged"
    )
    times = len(healings(facts.chain))
    last = [f"This is the last of {times} fine-tunings; what is known of the others stands under Lineage."] if times > 1 else []
    stage = "" if engine.zero_stage is None else f", DeepSpeed ZeRO stage {engine.zero_stage:d}"
    return [
        *last,
        f"Recipe: {code(recipe.name)} ({name(recipe.paper)})" + (f", with {changed}." if changed else "."),
        f"Trained: {trained.parameters:,} parameters in {trained.tensors:,} tensors: {what}.",
        f"{record.steps:,} steps of {recipe.batch_size:,} samples, {_plural(recipe.epochs, 'epoch')}, learning rate "
        f"{recipe.learning_rate:g}, seed {record.seed:d}.",
        f"Loss, mean over the first and the last tenth of the steps: {first:.4f} and {last_loss:.4f} nats an "
        "answer token (natural logarithms; 0 is certain)." + _rise(facts, first, last_loss),
        f"Engine: {_plural(engine.processes, 'process', 'processes')} on {name(engine.device)}{stage}; {record.seconds:,.0f} s"
        + (", resumed after an interruption." if record.resumed else "."),
        "Versions: " + ", ".join(f"{name(key)} {name(value)}" for key, value in record.versions.items()) + ".",
    ]


def recipe_rows(facts: CardFacts) -> list[tuple[str, str, str]]:
    """Each setting of the recipe, its value, and who chose it: the paper, we where the paper leaves it open, or this run."""
    if facts.healing is None:
        return []
    recipe, changed = facts.healing.recipe, facts.healing.overridden
    hidden = ("name", "paper", "data", "ours")
    shown = {key: value for key, value in vars(recipe).items() if key not in hidden and value is not None}
    shown = {key: value for key, value in shown.items() if recipe.method == "lora" or not key.startswith("lora_")}
    return [(key, str(shown[key]), "this run" if key in changed else "ours" if key in recipe.ours else "paper") for key in shown]


def _rise(facts: CardFacts, first: float, last: float) -> str:
    """Why a loss may go up, where it did, and no layer was removed that it would have to make up for."""
    if facts.plan or last < first:
        return ""
    return " The loss did not fall, which can happen when the model already knew these tasks."


def _served(facts: CardFacts) -> str:
    try:
        return argument(facts.repo) if facts.repo else place(facts.name)
    except NotShown:
        return "DIR"


def licence_lines(facts: CardFacts) -> list[str]:
    if facts.license:
        by = "as the person who made this card named it" if facts.license_given else "that of the source, as its card states it"
        lines = [f"Licence: {code(facts.license)}, {by}."]
        lines[0] += f" Its name: {code(facts.card['license_name'])}." if "license_name" in facts.card else ""
        lines[0] += f" Its text: {code(facts.card['license_link'])}." if "license_link" in facts.card else ""
    else:
        lines = ["Licence: **not known**. The source's records name none; ask its authors before you publish or use this model."]
    if facts.original_layers is not None and facts.original_depth is not None:
        lines.append(
            f"The first ancestor had {facts.original_depth} decoder layers. The {facts.layers} layers of this model are its layers "
            f"{numbers(facts.original_layers)}."
        )
    lines += lineage_lines(facts)
    lines.append(f"Fingerprint of {code(facts.source.id)}, which this was made from: {code(facts.source.fingerprint)}.")
    return lines


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _marked(lines: Iterable[str]) -> list[Markdown]:
    return [Markdown(line) for line in lines]
