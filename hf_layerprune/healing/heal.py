"""Heal a checkpoint: prepare the dataset, train, and write the result; each part goes on where an earlier run ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import HEALING, LOSS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import write_atomic
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.errors import HealingError
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import LIGHT, can_draw
from hf_layerprune.healing.request import Healing, finished_record

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
    from hf_layerprune.healing.dataset import prepare_data
    from hf_layerprune.healing.encoding import Collator
    from hf_layerprune.healing.engine import failures_named, rounds_per_step, start_engine
    from hf_layerprune.healing.run import train
    from hf_layerprune.healing.training import steps_in
    from hf_layerprune.models.processor import load_processor

    recipe, options = healing.recipe, healing.options
    accelerator = start_engine(recipe, healing.curves, options.report_to, options.device)
    with failures_named(accelerator, "Run the same command again: it goes on from the last save."):
        processor = load_processor(healing.checkpoint.path)
        with accelerator.local_main_process_first():
            data = prepare_data(healing.data, processor, progress=preparing, say=say)
        key = healing.key(data.digest)
        if (found := finished_record(healing.output)) and found.key == key:
            if accelerator.is_main_process:
                _clear_leftovers(healing)
            return found, True
        steps_in(len(data), recipe)
        rounds_per_step(recipe, accelerator.num_processes)
        with _work_folder(healing, key, accelerator, say):
            record = train(healing, data, Collator.of(processor), accelerator, progress, say)
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
        try:
            stack.enter_context(hold(_lock(healing), str(healing.output)))
            # Another run may have ended while this one looked at the records: better known now than after the training.
            check_output(healing.output, overwrite=healing.options.overwrite, source=healing.checkpoint.path)
            if work.exists() and (not stamp.is_file() or stamp.read_text() != key):
                say("an interrupted healing with other data or settings is discarded")
                shutil.rmtree(work)
            if not work.exists():
                work.mkdir()
                write_atomic(stamp, key.encode())
        except OSError as error:
            reason = f"{work}: cannot be prepared: {error.strerror}."
            raise HealingError(f"{reason} Free some space, or choose an output on a disk that can be written.") from error
        accelerator.wait_for_everyone()
        yield
        shutil.rmtree(work, ignore_errors=True)


def _clear_leftovers(healing: Healing) -> None:
    """Remove what a run left that died after its output stood."""
    if healing.work.exists():
        with hold(_lock(healing), str(healing.output)):
            shutil.rmtree(healing.work, ignore_errors=True)


def _lock(healing: Healing) -> Path:
    return hidden_beside(healing.output, "healing.lock")


def _write(healing: Healing, record: HealingRecord) -> None:
    """From the trained weights to the output, in one process and without the model; may run long after the training."""
    from hf_layerprune.healing.adapter_folder import write_adapter
    from hf_layerprune.healing.merging import write_healed
    from hf_layerprune.healing.run import trained_file
    from hf_layerprune.healing.trainable import adapter_config
    from hf_layerprune.healing.trained_weights import TrainedWeights

    recipe, checkpoint, output = healing.recipe, healing.checkpoint, healing.output
    weights = TrainedWeights(trained_file(healing), recipe.lora_alpha / recipe.lora_rank if recipe.method == "lora" else None)
    records = {HEALING: record.dump()}
    if can_draw():
        records[LOSS] = draw_loss(record.curve["loss"], LIGHT)
    overwrite = healing.options.overwrite
    if healing.options.keep_adapter:
        config = adapter_config(checkpoint.family, recipe)
        write_adapter(checkpoint, weights, config, output, overwrite=overwrite, records=records)
    else:
        write_healed(checkpoint, weights, output, overwrite=overwrite, records=records, work=healing.work)
