"""The commands that reproduce a model from the checkpoint from which on its records say how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import EVALUATION, HEALING, PLAN, RECORDS, STATISTICS
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import MANUAL
from hf_layerprune.publishing.escaping import NotShown, argument, place
from hf_layerprune.publishing.facts import CardFacts, Stage, hub_dataset
from hf_layerprune.strategies.options import format_layers

WIDTH = 100  # columns after which a command goes on in the next line
AGAIN = "again"  # the folder of what a published card's commands make, whatever the reader has under the model's name


def command_lines(facts: CardFacts) -> list[str]:
    """The commands, long ones on several lines; a comment in place of one with an argument that cannot be written down."""
    lineage = _Lineage.of(facts)
    commands: list[tuple[str, Callable[[], list[str]]]] = []
    for number, stage in list(enumerate(lineage.stages))[facts.start + 1 :]:
        if stage.plan:
            commands += [(PLAN, partial(_plan, facts, lineage, number)), (PLAN, partial(_apply, facts, lineage, number))]
        else:
            commands.append((HEALING, partial(_heal, lineage, number)))
    commands.append((PLAN, partial(_verify, facts, lineage)))
    if facts.evaluation:
        commands.append((EVALUATION, partial(_evaluate, facts.evaluation, lineage)))
    lines = [_written(record, make) for record, make in commands]
    if facts.repo and any(f"{RECORDS}/" in line for line in lines if not line.startswith("#")):
        lines.insert(0, f"hf download {facts.repo} --include '{RECORDS}/*' --local-dir .")
    return lines


def _written(record: str, make: Callable[[], list[str]]) -> str:
    """A command broken into lines of bearable length; it is told by its record where the card cannot show it whole."""
    try:
        first, *rest = make()
    except NotShown as error:
        return f"# A command is left out here: {error}; see {RECORDS}/{record}"
    lines = [first]
    for part in rest:
        if len(lines[-1]) + 1 + len(part) > WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)


@dataclass(frozen=True)
class _Lineage:
    """The checkpoints as the commands name them."""

    stages: tuple[Stage, ...]
    start: int  # the first that the commands take; those after it they make
    folders: tuple[str, ...]  # for each stage, beside one another

    @classmethod
    def of(cls, facts: CardFacts) -> _Lineage:
        names = [stage.source.id.rpartition("/")[2] for stage in facts.stages[:-1]] + [AGAIN if facts.repo else facts.name]
        folders: list[str] = []
        for name in names:
            folders.append(name if name not in folders else f"{name}-{len(folders)}")
        return cls(facts.stages, facts.start, tuple(folders))

    def source(self, number: int, revision: str = " --revision ") -> str:
        """A stage as a command takes it: what was made before, else what the first command begins with."""
        return place(self.folders[number]) if number > self.start else _named(self.stages[number].source, revision)


def _named(source: SourceRef, revision: str) -> str:
    """An id of the Hub at its commit, which follows after `revision`, mini, or a folder."""
    if source.id != "mini" and not is_hub_id(source.id):
        return place(source.id)
    return argument(source.id) + (f"{revision}{argument(source.commit)}" if source.commit else "")


def _plan(facts: CardFacts, lineage: _Lineage, number: int) -> list[str]:
    """Chooses the layers again: from the statistics, of which a repository's are found by its name, or by a method that needs none."""
    plan = lineage.stages[number].plan
    assert plan is not None
    if plan.statistics is None:
        origin = lineage.source(number - 1)
    elif facts.statistics is None:
        raise NotShown("the statistics that the layers were chosen by are missing here")
    else:
        origin = facts.repo or f"{RECORDS}/{STATISTICS}"
    budget, default = plan.budget, {0, plan.layers - 1, *range(facts.decoder.deepstack_layers)}
    parts = [] if plan.strategy == MANUAL else [f"--method {argument(plan.strategy)}"]
    for key, value in plan.parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        parts.append(f"--set {argument(f'{key}={text}')}")
    if budget.of == "layers":
        parts += [f"--layers {format_layers(plan.drop)}", *(["--force"] if plan.forced else [])]
    elif budget.of == "count" or budget.asked is None:
        parts.append(f"--num-layers {budget.layers:d}")
    else:
        parts += [f"--budget {argument(budget.asked)}", *(["--budget-of all"] if budget.of == "all" else [])]
    if default != {*plan.protected}:
        parts.append(f"--protect {format_layers(plan.protected)}")
    return [f"hf-layerprune plan {origin}", *parts, "-o plan.json"]


def _apply(facts: CardFacts, lineage: _Lineage, number: int) -> list[str]:
    options = []
    if not facts.repo:  # a published model brings its statistics and its shards itself
        options += [f"--statistics {RECORDS}/{STATISTICS}"] if facts.statistics else []
        policy = facts.manifest.shard_policy
        options += [f"--max-shard-size {policy:d}"] if isinstance(policy, int) else []
    plan = facts.repo or f"{RECORDS}/{PLAN}"
    return [f"hf-layerprune apply {lineage.source(number - 1)} {plan}", *options, f"-o {place(lineage.folders[number])}"]


def _heal(lineage: _Lineage, number: int) -> list[str]:
    healing = lineage.stages[number].healing
    assert healing is not None
    sources = healing.data.sources
    parts = [f"hf-layerprune heal {lineage.source(number - 1)}", f"--recipe {argument(healing.recipe.name)}"]
    parts += [f"--tune-last {len(healing.trained.layers)}"] if healing.trained.chosen_by.startswith("the last ") else []
    parts += [f"--data {argument(source.spec)}" for source in sources]
    parts += [f"--set {argument(f'{key}={getattr(healing.recipe, key)}')}" for key in healing.overridden]
    parts += ["--interlace-filter"] if any(source.filters.get("share") for source in sources) else []
    parts += ["--render-math"] if any(source.rendered_math for source in sources) else []
    bad = _max_bad((source.bad, source.available) for source in sources)
    return [*parts, f"--seed {healing.seed:d}", *bad, f"-o {place(lineage.folders[number])}"]


def _verify(facts: CardFacts, lineage: _Lineage) -> list[str]:
    source = [] if facts.healing else [f"--source {lineage.source(len(lineage.stages) - 2)}"]
    return [f"hf-layerprune verify {place(lineage.folders[-1])}", *source]


def _evaluate(report: EvalReport, lineage: _Lineage) -> list[str]:
    parts = [f"hf-layerprune evaluate {place(lineage.folders[-1])}"]
    if report.against:
        other = report.against.source
        fingerprints = [stage.source.fingerprint for stage in lineage.stages[:-1]]
        number = fingerprints.index(other.fingerprint) if other.fingerprint in fingerprints else -1
        parts.append(f"--against {lineage.source(number, '@') if number >= 0 else _named(other, '@')}")
    parts += [f"--tasks {argument(task.spec)}" for task in report.tasks]
    asked = report.asked
    given: dict[str, Any] = {"samples": asked.samples, "scorer": asked.scorer, "max-new-tokens": asked.max_new_tokens, "seed": asked.seed}
    given["dtype"] = report.model.settings.dtype
    parts += [f"--{name} {argument(value)}" for name, value in given.items() if value not in (None, "auto")]
    parts += ["--allow-fewer"] if asked.allow_fewer else []
    return parts + _max_bad((report.row(task.name).unusable, task.samples + task.unusable) for task in report.tasks)


def _max_bad(counts: Iterable[tuple[int, int]]) -> list[str]:
    """--max-bad where some task or dataset had more unusable records than go without it; the share in whole percent, rounded up."""
    share = max((math.ceil(100 * bad / every) for bad, every in counts if bad > every // 100), default=0)
    return [f"--max-bad {min(share, 99)}%"] if share else []


def local_names(facts: CardFacts) -> Iterator[str]:
    """What the commands name and nobody else has: files of data and of questions, and a folder that was compared with."""
    for stage in facts.stages[facts.start :]:
        sources = stage.healing.data.sources if stage.healing else ()
        yield from (source.origin for source in sources if not hub_dataset(vars(source)) and source.spec.split(",")[0] != "mini")
    if report := facts.evaluation:
        yield from (task.name for task in report.tasks if not hub_dataset(vars(task)) and not task.name.startswith("mini-"))
        other = report.against
        ours = {stage.source.fingerprint for stage in facts.stages}
        if other and other.fingerprint not in ours and other.id != "mini" and not is_hub_id(other.id):
            yield other.id
