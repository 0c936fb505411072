"""Train as asked, from the last save on if there is one, and keep what was trained with its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import HEALING
from hf_layerprune.artifacts.healing_record import CURVES, HealingRecord, RecordedRecipe, Trained
from hf_layerprune.artifacts.jsonfile import write_atomic
from hf_layerprune.healing.dataset import HealingData
from hf_layerprune.healing.encoding import Collator
from hf_layerprune.healing.engine import engine_facts, uses_deepspeed
from hf_layerprune.healing.heal import Progress
from hf_layerprune.healing.recipes import RECIPES, settings
from hf_layerprune.healing.request import Healing
from hf_layerprune.healing.saved_state import read_curve, restore, save, saved
from hf_layerprune.healing.trainable import trained_model
from hf_layerprune.healing.trained_weights import collect
from hf_layerprune.healing.training import Step, Trainer

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "hf-layerprune")


def train(
    healing: Healing, data: HealingData, collate: Collator, accelerator: Any, progress: Progress, say: Callable[[str], None]
) -> HealingRecord:
    """The record of the trained weights in the work folder, which are trained now unless they lie there already."""
    if (healing.work / HEALING).is_file():
        return HealingRecord.load(healing.work / HEALING)
    model = trained_model(healing, sharded=uses_deepspeed(accelerator))
    trainer = Trainer(accelerator, model, healing.recipe, data, collate)
    states = saved(healing.work)
    curve = read_curve(states[-1]) if states else []
    if states:
        restore(trainer, states[-1])
        say(f"going on with an interrupted healing: {len(curve)} of {trainer.steps} steps are done")
    _follow(trainer, healing, curve, progress)
    collect(trainer, trained_file(healing))
    record = _record(healing, data, trainer, curve, resumed=bool(states))
    if accelerator.is_main_process:
        write_atomic(healing.work / HEALING, record.dump())
    return record


def trained_file(healing: Healing) -> Path:
    return healing.work / "trained.safetensors"


def _follow(trainer: Trainer, healing: Healing, curve: list[Step], progress: Progress) -> None:
    """Train the steps that `curve` lacks, telling of each and saving the state every now and then."""
    accelerator, tracked = trainer.accelerator, healing.options.report_to != "none"
    if tracked:
        accelerator.init_trackers("hf-layerprune", config={k: v for k, v in healing.recipe.to_dict().items() if k != "ours"})
    for step in trainer.run(len(curve)):
        curve.append(step)
        progress(asdict(step), step.number, trainer.steps)
        if tracked:
            accelerator.log({k: v for k, v in asdict(step).items() if k != "number"}, step=step.number)
        if step.number % healing.options.save_steps == 0 and step.number < trainer.steps:
            save(trainer, healing.work, curve)


def _record(healing: Healing, data: HealingData, trainer: Trainer, curve: Sequence[Step], *, resumed: bool) -> HealingRecord:
    recipe, trained = healing.recipe, healing.trained
    published = RECIPES[recipe.name]
    return HealingRecord(
        key=healing.key(data.digest),
        checkpoint=healing.checkpoint.source,
        recipe=RecordedRecipe(**{**asdict(recipe), "ours": tuple(sorted(recipe.ours))}),
        overridden=tuple(name for name in settings(published) if getattr(recipe, name) != getattr(published, name)),
        trained=Trained(recipe.method, trained.layers, trained.chosen_by, **trainer.counts),
        data=data.report,
        seed=healing.options.seed,
        engine=engine_facts(trainer.accelerator),
        curve={name: tuple(float(getattr(step, name)) for step in curve) for name in CURVES},
        resumed=resumed,
        versions={name: found for name in LIBRARIES if (found := _version(name))},
    )


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
