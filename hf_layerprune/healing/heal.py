"""Heal a checkpoint: prepare the dataset, train, and write the result; each part goes on where an earlier run ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hf_layerprune.artifacts.folder import HEALING, LOSS
from hf_layerprune.artifacts.healing_record import CURVES, Engine, HealingRecord, Trained
from hf_layerprune.artifacts.jsonfile import write_atomic
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.output_place import check_output, parents_made
from hf_layerprune.checkpoint.processor_files import assembled
from hf_layerprune.errors import UsageError
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import LIGHT, can_draw
from hf_layerprune.healing.dataset import HealingData, prepare_data
from hf_layerprune.healing.encoding import Collator
from hf_layerprune.healing.engine import failures_named, rounds_per_step, start_engine, uses_deepspeed, writing
from hf_layerprune.healing.recipes import RECIPES
from hf_layerprune.healing.request import Healing, finished_record
from hf_layerprune.healing.training import Step, Trainer, saved_states, steps_in
from hf_layerprune.healing.weights import TrainedWeights, adapter_config, collect, trained_model, write_adapter, write_merged
from hf_layerprune.models.batches import load_processor

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "hf-layerprune")
TRAINED = "trained.safetensors"  # in the work folder

Progress = Callable[[Mapping[str, float], int, int], None]


def heal(
    healing: Healing,
    *,
    preparing: Callable[[int, int], None] = lambda done, total: None,
    progress: Progress = lambda step, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[HealingRecord, bool]:
    """Fine-tune a checkpoint and write the healed one: the record, and whether an earlier run had finished it already.

    preparing: told of records looked at and in all; progress: told of each step's numbers, the steps done and in all; say: given
    lines for people. Launched with several processes, all call this, and the main process writes. A run that ended early goes on
    from its last save. Raises HealingError, DataError, ModelError, CheckpointError, or UsageError for a batch that cannot be.
    """
    accelerator = start_engine(healing.recipe, healing.curves, healing.options.report_to, healing.options.device)
    with failures_named(accelerator, "Run the same command again: it goes on from the last save."):
        if healing.options.device_map is not None and accelerator.num_processes > 1:
            raise UsageError("--device-map is for one process. Several share a model with examples/zero3.yaml: leave it out.")
        with assembled(healing.checkpoint) as folder:
            processor = load_processor(folder, healing.checkpoint.config.get("image_token_id"))
        with accelerator.local_main_process_first():
            data = prepare_data(healing.data, processor, progress=preparing, say=say)
        key = healing.key(data.report.digest)
        if (found := finished_record(healing.output)) and found.key == key:
            if accelerator.is_main_process and healing.work.exists():  # left by a run that died after its output stood
                with hold(healing.lock, str(healing.output)):
                    shutil.rmtree(healing.work, ignore_errors=True)
            return found, True
        steps_in(len(data), healing.recipe)
        rounds_per_step(healing.recipe, accelerator.num_processes)
        with _work_folder(healing, key, accelerator, say):
            record = _trained(healing, data, Collator.of(processor), accelerator, progress, say)
            accelerator.end_training()
            if accelerator.is_main_process:
                _write(healing, record)
    return record, False


@contextmanager
def _work_folder(healing: Healing, key: str, accelerator: Any, say: Callable[[str], None]) -> Iterator[None]:
    """The work folder, cleared of another request's state, held by the main process until the output stands."""
    work, stamp = healing.work, healing.work / "key"
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield
        return
    with ExitStack() as stack:
        with writing(work):
            stack.enter_context(parents_made(healing.output))
            stack.enter_context(hold(healing.lock, str(healing.output)))
            # Another run may have ended while this one looked at the records: better known now than after the training.
            check_output(healing.output, overwrite=healing.options.overwrite, source=healing.checkpoint.path)
            if work.exists() and (not stamp.is_file() or stamp.read_text() != key):
                say("an interrupted healing with other data or settings is discarded")
                shutil.rmtree(work)
            if not work.exists():
                work.mkdir()
                write_atomic(stamp, key.encode())
        accelerator.wait_for_everyone()
        try:
            yield
        except BaseException:
            if not saved_states(work) and not (work / HEALING).is_file():  # nothing that a later run could go on from
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _trained(
    healing: Healing, data: HealingData, collate: Collator, accelerator: Any, progress: Progress, say: Callable[[str], None]
) -> HealingRecord:
    """The record of the trained weights in the work folder, which are trained now unless they lie there already."""
    work, options = healing.work, healing.options
    if (work / HEALING).is_file():
        return HealingRecord.load(work / HEALING)
    model = trained_model(healing, sharded=uses_deepspeed(accelerator))
    trainer = Trainer(accelerator, model, healing.recipe, data, collate)
    states, curve = saved_states(work), list[Step]()
    if states:
        curve = trainer.restore(states[-1])
        say(f"going on with an interrupted healing: {len(curve)} of {trainer.steps} steps are done")
    if tracked := options.report_to != "none":
        accelerator.init_trackers("hf-layerprune", config={k: v for k, v in asdict(healing.recipe).items() if k != "ours"})
    for step in trainer.run(len(curve)):
        curve.append(step)
        progress(asdict(step), step.number, trainer.steps)
        if tracked:
            accelerator.log({k: v for k, v in asdict(step).items() if k != "number"}, step=step.number)
        if step.number % options.save_steps == 0 and step.number < trainer.steps:
            trainer.save(work, curve)
    collect(trainer, work / TRAINED)
    record = _record(healing, data, trainer, curve, resumed=bool(states))
    if accelerator.is_main_process:
        write_atomic(work / HEALING, record.dump())
    return record


def _record(healing: Healing, data: HealingData, trainer: Trainer, curve: Sequence[Step], *, resumed: bool) -> HealingRecord:
    recipe, trained, accelerator = healing.recipe, healing.trained, trainer.accelerator
    published = asdict(RECIPES[recipe.name])
    stage = accelerator.deepspeed_plugin.zero_stage if uses_deepspeed(accelerator) else None
    return HealingRecord(
        key=healing.key(data.report.digest),
        checkpoint=healing.checkpoint.source,
        recipe=recipe,
        overridden=tuple(name for name, value in asdict(recipe).items() if value != published[name]),
        trained=Trained(recipe.method, trained.layers, trained.chosen_by, **trainer.counts),
        data=data.report,
        seed=healing.options.seed,
        engine=Engine(accelerator.num_processes, accelerator.device.type, stage),
        curve={name: tuple(float(getattr(step, name)) for step in curve) for name in CURVES},
        resumed=resumed,
        versions={name: found for name in LIBRARIES if (found := _version(name))},
    )


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _write(healing: Healing, record: HealingRecord) -> None:
    """From the trained weights to the output, in one process and without the model; may run long after the training."""
    recipe, checkpoint, options = healing.recipe, healing.checkpoint, healing.options
    weights = TrainedWeights(healing.work / TRAINED, recipe.lora_alpha / recipe.lora_rank if recipe.method == "lora" else None)
    records = {HEALING: record.dump()}
    if can_draw():
        records[LOSS] = draw_loss(record.curve["loss"], LIGHT)
    if options.keep_adapter:
        config = adapter_config(checkpoint.family, recipe)
        write_adapter(checkpoint, weights, config, healing.output, overwrite=options.overwrite, records=records)
    else:
        write_merged(checkpoint, weights, healing.output, overwrite=options.overwrite, records=records)
