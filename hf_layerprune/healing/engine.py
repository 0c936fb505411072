"""Accelerate, started the same way on one CPU, on GPUs, on many nodes and under DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hf_layerprune.artifacts.healing_record import Recipe
from hf_layerprune.errors import HealingError, UsageError, first_line
from hf_layerprune.models.loading import choose_device

INSTALL = 'healing needs {}: pip install "hf-layerprune[train]".'
TIMEOUT = timedelta(hours=2)  # preparing 200,000 samples takes one process that long; a launcher ends the others of a dead one at once


def start_engine(recipe: Recipe, folder: Path, report_to: str, device: str) -> Any:
    """An Accelerator for this process and the others of the run, if it was launched with some.

    folder: where tensorboard writes, if `report_to` names it. DeepSpeed comes from `accelerate launch`; it runs on CPUs too, over
    gloo, which must be named, or every process takes itself for the only one. HealingError for an engine or tracker that is not
    installed or not supported, ModelError for a missing device.
    """
    try:
        from accelerate import Accelerator, DistributedType
        from accelerate.state import AcceleratorState, GradientState
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError as error:
        raise HealingError(INSTALL.format("accelerate")) from error
    on_cpu = choose_device(device).type == "cpu"
    launched = torch.distributed.is_torchelastic_launched()
    if not launched:  # an earlier run in this process has left its precision and rounds behind, as transformers' Trainer knows too
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            cpu=on_cpu and choose_device().type != "cpu",  # true would switch DeepSpeed off, so never without need
            step_scheduler_with_optimizer=False,
            log_with=None if report_to == "none" else report_to,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if on_cpu else None, timeout=TIMEOUT)] if launched else [],
        )
    except ImportError as error:
        raise HealingError(f"{first_line(error)}. {INSTALL.format('deepspeed')}") from error
    except ValueError as error:
        raise HealingError(f"accelerate cannot start: {first_line(error)}.") from error
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.MEGATRON_LM):
        raise HealingError(f"{accelerator.distributed_type.value} is not supported; launch with examples/zero3.yaml, or without a config.")
    if report_to != "none" and not accelerator.log_with:
        raise HealingError(f"--report-to {report_to} is not installed here: pip install {report_to}, or leave it out.")
    return accelerator


def uses_deepspeed(accelerator: Any) -> bool:
    return bool(accelerator.distributed_type.value == "DEEPSPEED")


def rounds_per_step(recipe: Recipe, processes: int) -> int:
    """Forward passes that each process makes for an optimizer step. UsageError if the batch cannot be divided."""
    if recipe.batch_size % processes:
        raise UsageError(
            f"batch_size {recipe.batch_size} cannot be divided among {processes} processes; choose a multiple with --set batch_size=."
        )
    return -(-recipe.batch_size // (processes * recipe.micro_batch_size))


def configure_rounds(accelerator: Any, recipe: Recipe) -> None:
    """Give Accelerate and DeepSpeed the numbers of the recipe, whatever the accelerate config says of them."""
    rounds = rounds_per_step(recipe, accelerator.num_processes)
    accelerator.gradient_accumulation_steps = rounds
    if uses_deepspeed(accelerator):
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["zero_optimization"].update(overlap_comm=True, contiguous_gradients=True)  # as INTERLACE does
        config.update(
            train_micro_batch_size_per_gpu=recipe.batch_size // accelerator.num_processes // rounds,
            gradient_accumulation_steps=rounds,
            gradient_clipping=recipe.max_grad_norm,
        )
        config.pop("train_batch_size", None)


@contextmanager
def failures_named(accelerator: Any, remedy: str) -> Iterator[None]:
    """Turn what torch raises when another rank died, or memory ran out, into one line that names this rank."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HealingError(
            f"rank {accelerator.process_index}: out of memory. Use --set micro_batch_size=1, gradient_checkpointing=all, a smaller "
            f"max_length, or examples/zero3_offload.yaml. {remedy}"
        ) from error
    except RuntimeError as error:
        text = str(error)
        if accelerator.num_processes > 1 and any(word in text for word in ("onnection", "gloo", "NCCL", "timed out", "peer")):
            raise HealingError(
                f"rank {accelerator.process_index}: the connection to another process was lost, so one of them died "
                f"({first_line(error)}). {remedy}"
            ) from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system, safetensors and torch raise where a disk fails into a HealingError naming the path."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch reports a full disk so
            raise
        reason = "the disk took no more" if isinstance(error, RuntimeError) else first_line(error)
        raise HealingError(f"{path}: cannot be written: {reason}. Free some space, or choose another disk, and run again.") from error
