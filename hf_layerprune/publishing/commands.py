"""The commands that make a model again from the first checkpoint that its records name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import EVALUATION, PLAN, RECORDS, STATISTICS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.lineage import PRUNED
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import MANUAL, PruningPlan
from hf_layerprune.publishing.escaping import NotShown, argument, place
from hf_layerprune.publishing.facts import CardFacts, hub_dataset
from hf_layerprune.publishing.stages import Stage
from hf_layerprune.strategies.options import format_layers

WIDTH = 100  # columns after which a command goes on in the next line
AGAIN = "again"  # the folder of what a published card's commands make, whatever the reader has under the model's name


def start_of(stages: tuple[Stage, ...]) -> int:
    """The place from which the records say how everything after it was stage."""
    return max((number for number, stage in enumerate(stages) if number and stage.record is None), default=0)


def command_lines(facts: CardFacts) -> list[str]:
    """The commands, long ones on several lines; a comment in place of one with an argument that cannot be written down."""
    stages = facts.stages
    start, folders = start_of(stages), _folders(facts)
    lines: list[str] = []
    for number, stage in list(enumerate(stages))[start + 1 :]:
        if stage.plan and stage.plan is facts.plan:
            lines += _written(PLAN, partial(_plan, facts, number, folders))
        lines += _written((stage.record or PLAN).removeprefix(f"{RECORDS}/"), partial(_step, facts, number, folders))
    lines += _written(PLAN, partial(_verify, facts, folders))
    if facts.evaluation:
        lines += _written(EVALUATION, partial(_evaluate, facts, folders))
    if facts.repo and any(f"{RECORDS}/" in line for line in lines if not line.startswith("#")):
        lines.insert(0, f"hf download {facts.repo} --include '{RECORDS}/*' --local-dir .")
    return lines


def _written(record: str, make: Callable[[], list[str]]) -> list[str]:
    """A command broken into lines of bearable length; it is told by its record where the card cannot show it whole."""
    try:
        first, *rest = make()
    except NotShown as error:
        return [f"# A command is left out here: {error}; see {RECORDS}/{record}"]
    lines = [first]
    for part in rest:
        if len(lines[-1]) + 1 + len(part) > WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return ["\n".join(lines)]


def _folders(facts: CardFacts) -> list[str]:
    """What the commands call each checkpoint of the lineage: a folder of its own beside the others."""
    found: list[str] = []
    for stage in facts.stages[:-1]:
        name = stage.source.id.rpartition("/")[2]
        found.append(name if name not in found else f"{name}-{len(found)}")
    last = AGAIN if facts.repo else facts.name
    return [*found, last if last not in found else f"{last}-{len(found)}"]


def _source(facts: CardFacts, number: int, folders: list[str]) -> str:
    """A checkpoint of the lineage as a command takes it: what was made before, else an id of the Hub at its commit, mini or a folder."""
    stage = facts.stages[number]
    if number > start_of(facts.stages):
        return place(folders[number])
    known = stage.source.id == "mini" or is_hub_id(stage.source.id)
    shown = argument(stage.source.id) if known else place(stage.source.id)
    return f"{shown} --revision {argument(stage.source.commit)}" if stage.source.commit else shown


def _step(facts: CardFacts, number: int, folders: list[str]) -> list[str]:
    stage, before = facts.stages[number], _source(facts, number - 1, folders)
    target = f"-o {place(folders[number])}"
    if stage.how == PRUNED:
        own = stage.record == f"{RECORDS}/{PLAN}"
        plan = facts.repo if own and facts.repo else stage.record
        return [f"hf-layerprune apply {before} {plan}", *(_apply_options(facts) if own and not facts.repo else []), target]
    assert stage.healing is not None
    return [f"hf-layerprune heal {before}", *_heal_options(stage.healing), target]


def _apply_options(facts: CardFacts) -> list[str]:
    statistics = [f"--statistics {RECORDS}/{STATISTICS}"] if facts.statistics else []
    policy = facts.manifest.shard_policy
    return statistics + ([f"--max-shard-size {policy:d}"] if isinstance(policy, int) else [])


def _plan(facts: CardFacts, number: int, folders: list[str]) -> list[str]:
    """Chooses the layers again: from the statistics, of which a repository's are found by its name, or by a method that needs none."""
    plan = facts.plan
    assert plan is not None
    if plan.statistics is None:
        origin = _source(facts, number - 1, folders)
    elif facts.statistics is None:
        raise NotShown("the statistics that the layers were chosen by are missing here")
    else:
        origin = facts.repo or f"{RECORDS}/{STATISTICS}"
    return [f"hf-layerprune plan {origin}", *_plan_options(plan, facts.decoder.deepstack_layers), "-o plan.json"]


def _plan_options(plan: PruningPlan, deepstack_layers: int) -> list[str]:
    budget, default = plan.budget, {0, plan.layers - 1, *range(deepstack_layers)}
    parts = [] if plan.strategy == MANUAL else [f"--method {argument(plan.strategy)}"]
    parts += [f"--set {argument(f'{key}={_value(value)}')}" for key, value in plan.parameters.items()]
    if budget.of == "layers":
        parts += [f"--layers {format_layers(plan.drop)}", *(["--force"] if plan.forced else [])]
    elif budget.of == "count" or budget.asked is None:
        parts.append(f"--num-layers {budget.layers:d}")
    else:
        parts += [f"--budget {argument(budget.asked)}", *(["--budget-of all"] if budget.of == "all" else [])]
    return parts + ([] if default == {*plan.protected} else [f"--protect {format_layers(plan.protected)}"])


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _heal_options(healing: HealingRecord) -> list[str]:
    sources, chosen = healing.data.sources, healing.trained.chosen_by
    parts = [f"--recipe {argument(healing.recipe.name)}"]
    parts += [f"--tune-last {len(healing.trained.layers)}"] if chosen.startswith("the last ") else []
    parts += [f"--data {argument(source.spec)}" for source in sources]
    parts += [f"--set {argument(f'{key}={getattr(healing.recipe, key)}')}" for key in healing.overridden]
    parts += ["--interlace-filter"] if any(source.filters.get("share") for source in sources) else []
    parts += ["--render-math"] if any(source.rendered_math for source in sources) else []
    bad = _max_bad((source.bad, source.available) for source in sources)
    return [*parts, f"--seed {healing.seed:d}", *bad]


def _verify(facts: CardFacts, folders: list[str]) -> list[str]:
    source = [] if facts.healing else [f"--source {_source(facts, len(folders) - 2, folders)}"]
    return [f"hf-layerprune verify {place(folders[-1])}", *source]


def _evaluate(facts: CardFacts, folders: list[str]) -> list[str]:
    report = facts.evaluation
    assert report is not None
    against = [] if report.against is None else [f"--against {_other(facts, report.against.source, folders)}"]
    tasks = [f"--tasks {argument(task.spec)}" for task in report.tasks]
    bad = [(report.row(task.name).unusable, task.samples + task.unusable) for task in report.tasks]
    return [f"hf-layerprune evaluate {place(folders[-1])}", *against, *tasks, *_asked(report), *_max_bad(bad)]


def _other(facts: CardFacts, other: SourceRef, folders: list[str]) -> str:
    """The model that was compared with, as --against takes it: what was made before, an id of the Hub at its commit, mini or a folder."""
    stages = facts.stages
    number = next((number for number, stage in enumerate(stages[:-1]) if stage.source.fingerprint == other.fingerprint), None)
    if number is not None and number > start_of(stages):
        return place(folders[number])
    source = other if number is None else stages[number].source
    if source.id != "mini" and not is_hub_id(source.id):
        return place(source.id)
    return argument(f"{source.id}@{source.commit}" if source.commit else source.id)


def _asked(report: EvalReport) -> list[str]:
    """What decides the samples and their scores beside the tasks, as it was asked for."""
    asked = report.asked
    found = {"samples": asked.samples, "scorer": asked.scorer, "max_new_tokens": asked.max_new_tokens, "seed": asked.seed}
    given = [(name, value) for name, value in (found | {"dtype": report.model.settings.dtype}).items() if value not in (None, "auto")]
    fewer = ["--allow-fewer"] if asked.allow_fewer else []
    return [*(f"--{name.replace('_', '-')} {argument(value)}" for name, value in given), *fewer]


def _max_bad(counts: Iterable[tuple[int, int]]) -> list[str]:
    """--max-bad where some task or data had more unusable records than go without it; the share in whole percent, rounded up."""
    share = max((math.ceil(100 * bad / every) for bad, every in counts if bad > every // 100), default=0)
    return [f"--max-bad {min(share, 99)}%"] if share else []


def local_names(facts: CardFacts) -> Iterator[str]:
    """What the commands name and nobody else has: files of data and of questions, and a folder that was compared with."""
    healings = [stage.healing for stage in facts.stages[start_of(facts.stages) :] if stage.healing]
    sources = [source for healing in healings for source in healing.data.sources]
    yield from (source.origin for source in sources if not hub_dataset(vars(source)) and source.spec.split(",")[0] != "mini")
    if report := facts.evaluation:
        yield from (task.name for task in report.tasks if not hub_dataset(vars(task)) and not task.name.startswith("mini-"))
        other = report.against
        ours = {stage.source.fingerprint for stage in facts.stages}
        if other and other.fingerprint not in ours and other.id != "mini" and not is_hub_id(other.id):
            yield other.id
