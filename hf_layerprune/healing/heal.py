"""Heal a checkpoint: prepare the data, train, and write the result; each part goes on where an earlier run ended."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.folder import HEALING, LOSS
from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import kept_folder, write_atomic
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.data.limits import parse_max_bad
from hf_layerprune.errors import HealingError
from hf_layerprune.figures.loss import draw_loss
from hf_layerprune.figures.theme import LIGHT, can_draw
from hf_layerprune.healing.data_request import DataRequest, data_sources
from hf_layerprune.healing.recipes import Recipe, recipe_named
from hf_layerprune.healing.request import HealingRequest, finished_record

if TYPE_CHECKING:
    from hf_layerprune.healing.prepare import HealingData
    from hf_layerprune.healing.run import Progress


def heal(
    request: HealingRequest,
    prepare: Callable[[Any, Recipe, int], HealingData],
    *,
    progress: Progress = lambda step, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[HealingRecord, bool]:
    """Fine-tune a checkpoint and write the healed one: the record, and whether an earlier run had finished it already.

    prepare: given processor, recipe and seed, the data to train on. progress: told of each step's numbers, the steps done and
    in all; say: given lines for people. Launched with several processes, all call this, and the first one writes.
    Raises HealingError, DataError, ModelError or CheckpointError; a run that ended goes on from its last save.
    """
    request.check()
    from hf_layerprune.healing.collator import Collator
    from hf_layerprune.healing.engine import failures_named, rounds_per_step, start_engine
    from hf_layerprune.healing.run import train
    from hf_layerprune.healing.training import steps_in
    from hf_layerprune.models.processor import load_processor

    accelerator = start_engine(request.recipe, request.curves, request.report_to, request.device)
    with failures_named(accelerator, "Run the same command again: it goes on from the last save."):
        processor = load_processor(request.checkpoint.path)
        with accelerator.local_main_process_first():
            data = prepare(processor, request.recipe, request.seed)
        key = request.key(data.digest)
        if found := _finished(request, key):
            if accelerator.is_main_process:
                _clear_leftovers(request)
            return found, True
        steps_in(len(data), request.recipe)
        rounds_per_step(request.recipe, accelerator.num_processes)
        check_output(request.output, overwrite=request.overwrite, source=request.checkpoint.path)
        with _work_folder(request, key, accelerator, say):
            record = train(request, data, Collator.of(processor), accelerator, progress, say)
            accelerator.end_training()
            if accelerator.is_main_process:
                _write(request, record)
    return record, False


def heal_model(
    checkpoint: Checkpoint,
    output: str | Path,
    recipe: str = "domain-aware",
    *,
    data: str | Sequence[str] = (),
    settings: Mapping[str, object] = {},
    max_bad: str = "1%",
    interlace_filter: bool = False,
    render_math: bool = False,
    progress: Progress = lambda step, done, total: None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    **options: Any,
) -> HealingRecord:
    """`heal` as one calls it from Python. data: lines as `--data` takes them, by default mini's generator for what comes from mini;
    settings: of the recipe, by name; max_bad, interlace_filter, render_math: as DataRequest has them; options: those of
    HealingRequest. Raises UsageError besides what `heal` raises."""
    resolved = recipe_named(recipe).changed(settings)
    asked = DataRequest(
        data_sources([data] if isinstance(data, str) else data, checkpoint.path, resolved),
        max_bad=parse_max_bad(max_bad),
        interlace_filter=interlace_filter,
        render_math=render_math,
        cache=kept_folder("data"),
    )
    request = HealingRequest(checkpoint, Path(output), resolved, **options)
    return heal(request, partial(asked.prepare, say=say), progress=progress, say=say)[0]


@contextmanager
def _work_folder(request: HealingRequest, key: str, accelerator: Any, say: Callable[[str], None]) -> Iterator[None]:
    """The work folder, cleared of another request's state, held by the first process until the output stands."""
    work, stamp = request.work, request.work / "key"
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(_lock(request), str(request.output)))
            # Another run may have ended while this one looked at the data: better known now than after the training.
            check_output(request.output, overwrite=request.overwrite, source=request.checkpoint.path)
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


def _finished(request: HealingRequest, key: str) -> HealingRecord | None:
    found = finished_record(request.output)
    return found if found and found.key == key else None


def _clear_leftovers(request: HealingRequest) -> None:
    """Remove what a run left that died after its output stood."""
    if request.work.exists():
        with hold(_lock(request), str(request.output)):
            shutil.rmtree(request.work, ignore_errors=True)


def _lock(request: HealingRequest) -> Path:
    return hidden_beside(request.output, "healing.lock")


def _write(request: HealingRequest, record: HealingRecord) -> None:
    """From the trained weights to the output, in one process and without the model; may run long after the training."""
    from hf_layerprune.healing.adapter_folder import write_adapter
    from hf_layerprune.healing.merging import write_healed
    from hf_layerprune.healing.run import trained_file
    from hf_layerprune.healing.trainable import adapter_config
    from hf_layerprune.healing.trained_weights import TrainedWeights

    recipe = request.recipe
    weights = TrainedWeights(trained_file(request), recipe.lora_alpha / recipe.lora_rank if recipe.method == "lora" else None)
    records = {HEALING: record.dump()}
    if can_draw():
        records[LOSS] = draw_loss(record.curve["loss"], LIGHT)
    if request.keep_adapter:
        config = adapter_config(request.checkpoint.family, recipe)
        write_adapter(request.checkpoint, weights, config, request.output, overwrite=request.overwrite, records=records)
    else:
        write_healed(request.checkpoint, weights, request.output, overwrite=request.overwrite, records=records, work=request.work)
