"""What was done to a model from the first checkpoint that its records name, in sentences, and how to do it again."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from hf_layerprune.artifacts.lineage import HEALED, PRUNED
from hf_layerprune.artifacts.model_facts import SourceRef, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.publishing.chain import Made, healings
from hf_layerprune.publishing.commands import local_names, start_of
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.inert import Markdown, code

MINI = (
    "`mini` is the model of four million parameters that is part of hf-layerprune; `mini-math` and `mini-general` are its own synthetic "
    "tasks."
)


def named(source: SourceRef) -> Markdown:
    """A checkpoint, with a link and its commit where it is on the Hub."""
    shown = code(source.id)
    if is_hub_id(source.id):
        shown = Markdown(f"[{shown}](https://huggingface.co/{source.id})")
    return Markdown(f"{shown} (commit {code(source.commit)})" if source.commit else shown)


def method(plan: PruningPlan) -> Markdown:
    """The strategy of a plan, and whether its spacing rule was relaxed to reach the budget."""
    return Markdown(f"{code(plan.strategy)} (relaxed)" if plan.relaxed else code(plan.strategy))


def title_lines(facts: CardFacts) -> list[str]:
    """What the model is, from the first ancestor on."""
    first, *rest = facts.chain
    pruned = [made for made in rest if made.how == PRUNED]
    sentence = named(first.source) + ("" if pruned else ", no layer removed")
    for number, made in enumerate(rest):
        joined = " " if number == 0 and made.how == PRUNED else ", then " if number else ", "
        sentence += joined + _done(made, rest[:number]) + (" by hf-layerprune" if number == 0 else "")
    lines = [f"{sentence}{_end(rest)}."]
    return [*lines, MINI] if first.source.id == "mini" else lines


def _done(made: Made, before: Sequence[Made]) -> str:
    if made.how == PRUNED:
        if made.plan is None:
            return "with layers removed"
        return f"with {len(made.plan.drop)} of its {made.plan.layers} decoder layers removed"
    again = bool(before) and before[-1].how == HEALED
    if made.healing is None:
        return "fine-tuned, in a way that these records do not say"
    return f"{'' if again else 'fine-tuned '}for {made.healing.steps} steps{' more' if again else ''}"


def _end(rest: Sequence[Made]) -> str:
    if rest[-1].how == PRUNED:
        return ", and nothing else changed: it was not fine-tuned afterwards" if len(rest) == 1 else "; it was not fine-tuned afterwards"
    return ""


def origin_lines(facts: CardFacts) -> list[str]:
    """How one can be sure of the rest."""
    total, changed = len(facts.manifest.tensors), len(facts.manifest.changed)
    if facts.plan is None:
        return []
    if facts.healing:
        times = len(healings(facts.chain))
        once = "afterwards" if times == 1 else f"afterwards, in {times} fine-tunings"
        rest = f"the other {total - changed:,} are those of {code(facts.source.id)}, bit for bit"
        return [f"Of the {total:,} tensors, {changed:,} were trained {once}; {rest}."]
    return [f"All {total:,} tensors are those of {code(facts.source.id)}, bit for bit; `layerprune/manifest.json` names each one's origin."]


def lineage_lines(facts: CardFacts) -> list[str]:
    """Each checkpoint of the chain with what was done and the record that says so."""
    first, *rest = facts.chain
    lines = []
    if len(rest) > 1:
        steps = [f"{made.how} to {'this model' if made is rest[-1] else code(made.source.id)} ({_recorded(made)})" for made in rest]
        lines.append(f"Lineage: {', '.join([named(first.source), *steps])}.")
    if rest[0].plan and rest[0].plan.original_layers is not None:
        lines.append(f"{code(first.source.id)} was itself pruned; these records do not say from what.")
    return lines


def _recorded(made: Made) -> str:
    if made.record is None:
        return "its record does not lie here"
    if made.plan:
        return f"{len(made.plan.drop)} of {made.plan.layers} layers by {method(made.plan)}, `{made.record}`"
    assert made.healing is not None
    recipe = code(made.healing.recipe.name)
    return f"{made.healing.steps:,} steps by {recipe}, seed {made.healing.seed:d}, `{made.record}`"


def reproduce_intro(facts: CardFacts) -> list[str]:
    extra = ".[train]" if any(made.healing for made in facts.chain) else "."
    how = f"Install hf-layerprune {version('hf-layerprune')}, which wrote this card, in a fresh clone of it:"
    how += f' `pip install -c constraints.txt "{extra}"`.'
    if facts.repo is None:
        return [how, "Then, from this folder's records in `layerprune/`:"]
    if facts.healing:
        return [how, "Then build the pruned stage again from its source, which proves it, and repeat the fine-tuning:"]
    proof = "This model need not be trusted, it can be reproduced: `apply` builds it again and proves that the weights here are the same."
    return [f"{proof} {how}"]


def reproduce_notes(facts: CardFacts) -> list[str]:
    chain = facts.chain
    start, notes = start_of(chain), list[str]()
    steps = chain[start + 1 :]
    if facts.plan and any(made.plan is facts.plan for made in steps) and (facts.statistics or facts.plan.statistics is None):
        notes.append("`plan` chooses the layers again: its `plan.json` is that of `layerprune/`.")
    for number, made in enumerate(steps):
        after_healing = any(earlier.how == HEALED for earlier in steps[:number])
        fingerprint = code(made.source.fingerprint)
        if made.how == PRUNED and after_healing:
            weights = code(chain[start + number].source.fingerprint)
            notes.append(
                f"Its plan is for the very weights with the fingerprint {weights}: where `heal` gave others, `apply` refuses them."
            )
        elif made.how == PRUNED and made is chain[-1]:
            notes.append("`apply` makes the same bytes again: the weights get the sha256 that `layerprune/manifest.json` states.")
        elif made.how == PRUNED:
            notes.append(f"`apply` makes the pruned stage again byte for byte, the one with the fingerprint {fingerprint}.")
    if any(made.how == HEALED for made in steps):
        notes.append("`heal` repeats the fine-tuning; on other hardware or other versions its weights may differ slightly.")
    sources = [source for made in steps if made.healing for source in made.healing.data.sources]
    if any(source.rendered_math and source.left_out for source in sources):
        notes.append("Problems that an evaluation asks were left out; name these evaluations again with `--exclude`.")
    return [*notes, *_not_here(facts, chain[start], start)]


def _not_here(facts: CardFacts, first: Made, start: int) -> list[str]:
    """What somebody else lacks to carry the commands out."""
    notes = []
    if start:
        notes.append(f"How {code(first.source.id)} was made these records do not say, so that it cannot be made again from them.")
    if first.source.commit is None and not is_hub_id(first.source.id) and first.source.id != "mini":
        fingerprint = code(first.source.fingerprint)
        notes.append(f"{code(first.source.id)} was a folder on the disk of the person who made this, with the fingerprint {fingerprint}.")
    if lost := list(dict.fromkeys(map(code, local_names(facts)))):
        notes.append(f"On the disk of the person who made this lay {', '.join(lost)}; the records have the sha256 of what was read there.")
    return notes
