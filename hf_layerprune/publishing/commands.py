"""The commands that make a model again from its source and its records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.statistics import STATISTICS
from hf_layerprune.publishing.facts import CardFacts, hub_dataset
from hf_layerprune.publishing.inert import argument, code


def command_lines(facts: CardFacts) -> list[str]:
    lines = []
    healing, plan = facts.healing, facts.plan
    if plan:
        target = healing.checkpoint.id if healing else facts.name
        lines.append(f"hf-layerprune apply {_source(facts)} layerprune/plan.json{_apply_options(facts)} -o {_folder(target)}")
    if healing:
        start = _folder(healing.checkpoint.id) if plan else _source(facts)
        lines.append(f"hf-layerprune heal {start}{_heal_options(facts)} -o {_folder(facts.name)}")
    lines.append(_verify(facts))
    if facts.evaluation:
        lines.append(_evaluate(facts))
    return lines


def command_notes(facts: CardFacts) -> list[str]:
    notes = []
    if facts.plan and not facts.healing:
        notes.append("`apply` makes the same bytes again: the weights get the sha256 that `layerprune/manifest.json` states.")
    if facts.healing:
        if facts.plan:
            stage = code(facts.healing.checkpoint.fingerprint)
            notes.append(f"`apply` makes the pruned stage again byte for byte, the one with the fingerprint {stage}.")
        notes.append("`heal` repeats the fine-tuning; on other hardware or versions its weights come out slightly different.")
        if any(source.get("rendered_math") and source.get("left_out") for source in facts.healing.data["sources"]):
            notes.append("Problems that an evaluation asks were left out; name these evaluations again with `--exclude`.")
    if facts.source.commit is None and facts.base_model != facts.source.id and facts.source.id != "mini":
        notes.append(f"{code(facts.source.id)} was a folder on the disk of the person who made this; its fingerprint stands below.")
    if lost := list(dict.fromkeys(_local(facts))):
        notes.append(f"On the disk of the person who made this lay {', '.join(lost)}; the records have the sha256 of what was read there.")
    return notes


def _local(facts: CardFacts) -> Iterator[str]:
    """What the commands name and nobody else has: files of data and of questions, and a folder that was compared with."""
    sources = facts.healing.data["sources"] if facts.healing else ()
    yield from (code(source["origin"]) for source in sources if not hub_dataset(source) and source["spec"].split(",")[0] != "mini")
    if report := facts.evaluation:
        yield from (code(task["name"]) for task in report.tasks if not hub_dataset(task) and not str(task["name"]).startswith("mini-"))
        other = report.against
        if other and other.fingerprint != facts.source.fingerprint and other.id != "mini" and not is_hub_id(other.id):
            yield code(other.id)


def _source(facts: CardFacts) -> str:
    known = facts.source.id in ("mini", facts.base_model)
    place = argument(facts.source.id) if known else _folder(facts.source.id)
    return f"{place} --revision {argument(facts.source.commit)}" if facts.source.commit else place


def _folder(name: str) -> str:
    text = argument(name)
    return text if text.startswith("./") else f"./{text}"


def _apply_options(facts: CardFacts) -> str:
    statistics = f" --statistics layerprune/{STATISTICS}" if facts.statistics else ""
    policy = facts.manifest.shard_policy
    return statistics + (f" --max-shard-size {policy:d}" if isinstance(policy, int) else "")


def _heal_options(facts: CardFacts) -> str:
    healing = facts.healing
    assert healing is not None
    parts = [f"--recipe {argument(healing.recipe['name'])}"]
    if not facts.plan and healing.trained["layers"]:
        parts.append(f"--tune-last {len(healing.trained['layers'])}")
    parts += [f"--data {argument(source['spec'])}" for source in healing.data["sources"]]
    parts += [f"--set {argument(f'{key}={healing.recipe[key]}')}" for key in healing.overridden]
    parts += ["--interlace-filter"] if any((source.get("filters") or {}).get("share") for source in healing.data["sources"]) else []
    parts += ["--render-math"] if any(source.get("rendered_math") for source in healing.data["sources"]) else []
    bad = _max_bad((source["bad"], source["available"]) for source in healing.data["sources"])
    return " ".join(["", *parts, f"--seed {healing.seed:d}", *bad])


def _verify(facts: CardFacts) -> str:
    source = "" if facts.healing else f" --source {_source(facts)}"
    return f"hf-layerprune verify {_folder(facts.name)}{source}"


def _evaluate(facts: CardFacts) -> str:
    report = facts.evaluation
    assert report is not None
    against = [] if report.against is None else [f"--against {_other(facts, report.against)}"]
    tasks = [f"--tasks {argument(task.get('spec') or task['name'])}" for task in report.tasks]
    bad = [(report.row(str(task["name"])).bad, task["samples"] + task["bad"]) for task in report.tasks]
    return " ".join(["hf-layerprune evaluate", _folder(facts.name), *against, *tasks, *_asked(report), *_max_bad(bad)])


def _other(facts: CardFacts, other: SourceRef) -> str:
    """The model that was compared with, as --against takes it: an id of the Hub with its commit, mini, or a folder."""
    source = facts.source if other.fingerprint == facts.source.fingerprint else other
    if source.id != "mini" and not is_hub_id(source.id):
        return _folder(source.id)
    return argument(f"{source.id}@{source.commit}" if source.commit else source.id)


def _asked(report: EvalReport) -> list[str]:
    """What decides the samples and their scores beside the tasks, as it was asked for; older reports do not say all of it."""
    asked = report.settings.get("tasks") or {name: _shared(report, key) for name, key in (("samples", "records"), ("seed", "seed"))}
    found = {"dtype": report.settings.get("model", {}).get("asked", {}).get("dtype", "auto"), **asked}
    names = ("samples", "scorer", "max_new_tokens", "seed", "dtype")
    given = [(name, found[name]) for name in names if found.get(name) not in (None, "auto")]
    fewer = ["--allow-fewer"] if found.get("allow_fewer") is True else []
    return [*(f"--{name.replace('_', '-')} {argument(value)}" for name, value in given), *fewer]


def _shared(report: EvalReport, key: str) -> Any:
    """What all tasks say of something, None where they differ."""
    values = {task.get(key) for task in report.tasks}
    return values.pop() if len(values) == 1 else None


def _max_bad(counts: Iterable[tuple[int, int]]) -> list[str]:
    """--max-bad where some task or data had more bad records of all than goes without it; the share in whole percent, rounded up."""
    share = max((math.ceil(100 * bad / every) for bad, every in counts if bad > every // 100), default=0)
    return [f"--max-bad {min(share, 99)}%"] if share else []
