"""The commands that make a model again from its source and its records."""

from __future__ import annotations

from hf_layerprune.artifacts.statistics import STATISTICS
from hf_layerprune.publishing.facts import CardFacts
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
    return notes


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
    return " ".join(["", *parts, f"--seed {healing.seed:d}"])


def _verify(facts: CardFacts) -> str:
    source = "" if facts.healing else f" --source {_source(facts)}"
    return f"hf-layerprune verify {_folder(facts.name)}{source}"


def _evaluate(facts: CardFacts) -> str:
    report = facts.evaluation
    assert report is not None
    against = (
        ""
        if report.against is None
        else f" --against {_source(facts) if report.against.fingerprint == facts.source.fingerprint else argument(report.against.id)}"
    )
    tasks = "".join(
        f" --tasks {argument(task['name'] if str(task['name']).startswith('mini-') else task.get('origin') or task['name'])}"
        for task in report.tasks
    )
    counts = {task["samples"] for task in report.tasks}
    samples = f" --samples {counts.pop():d}" if len(counts) == 1 else ""
    seeds = {task.get("seed") for task in report.tasks}
    seed = f" --seed {seeds.pop():d}" if len(seeds) == 1 and None not in seeds else ""
    return f"hf-layerprune evaluate {_folder(facts.name)}{against}{tasks}{samples}{seed}"
