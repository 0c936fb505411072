"""What a run trained, out of the engine and into a file: adapters or whole tensors, in fp32, by their names in the checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.errors import HealingError
from hf_layerprune.healing.engine import uses_deepspeed
from hf_layerprune.healing.training import Trainer

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class TrainedWeights:
    """A file of trained tensors; scale: what B A is multiplied with, None where whole tensors were trained.

    Adapters are called <module>.lora_A.weight [rank, in] and <module>.lora_B.weight [out, rank].
    """

    path: Path
    scale: float | None

    def names(self) -> tuple[str, ...]:
        with safe_open(self.path, "pt") as file:
            return tuple(sorted(file.keys()))

    def changed(self) -> tuple[str, ...]:
        """The tensors of the checkpoint that get new values, by name."""
        if self.scale is None:
            return self.names()
        return tuple(name.removesuffix(LORA_A) + ".weight" for name in self.names() if name.endswith(LORA_A))

    def value(self, name: str, before: Tensor) -> Tensor:
        """The new value of a checkpoint's tensor, in the type it had: W + scale B A, worked out in fp32, or the trained tensor."""
        with safe_open(self.path, "pt") as file:
            if self.scale is None:
                value: Tensor = file.get_tensor(name)
                return _check_finite(_laid_out(value, before, name).to(before.dtype), name)
            module = name.removesuffix(".weight")
            down: Tensor = file.get_tensor(module + LORA_A)
            up: Tensor = file.get_tensor(module + LORA_B)
        return _check_finite((before.float() + self.scale * (up.float() @ down.float())).to(before.dtype), name)


def collect(trainer: Trainer, path: Path) -> None:
    """Write every trained tensor, in fp32, gathered from all processes, which all call this; the first one writes the file."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    whole: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = _gathered(parameter) if uses_deepspeed(trainer.accelerator) else parameter.detach()
            if trainer.accelerator.is_main_process:
                _check_finite(value, name)
                whole[_checkpoint_name(name)] = value.float().cpu().contiguous().clone()
    if trainer.accelerator.is_main_process:
        _write(whole, path)
    trainer.accelerator.wait_for_everyone()


def _gathered(parameter: torch.nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    value: Tensor = safe_get_full_fp32_param(parameter)
    return value


def _checkpoint_name(name: str) -> str:
    """peft calls a parameter base_model.model.<name>.lora_A.default.weight."""
    return name.removeprefix("base_model.model.").replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    beside = path.with_suffix(".partial")
    try:
        save_file(tensors, beside, metadata={"format": "pt"})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        fsync_folder(path.parent)
    except (OSError, SafetensorError) as error:  # the latter is how its writer reports a full disk
        raise HealingError(
            f"{path}: writing it failed: {getattr(error, 'strerror', None) or error}. Free some space and run again."
        ) from error


def _check_finite(value: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise HealingError(f"{name}: training left values in it that are no numbers. Lower the learning rate, and heal again.")
    return value


def _laid_out(value: Tensor, before: Tensor, name: str) -> Tensor:
    """Stacked experts lie the other way round in some checkpoints than transformers holds them."""
    if value.shape == before.shape:
        return value
    if value.dim() > 2 and value.transpose(-1, -2).shape == before.shape:
        return value.transpose(-1, -2)
    raise HealingError(
        f"{name}: trained with shape {tuple(value.shape)}, but the checkpoint has {tuple(before.shape)}. Please report this."
    )
