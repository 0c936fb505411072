"""Save the state of a run so that it resumes exactly: weights, optimizer, random numbers and the curve."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.errors import HealingError
from hf_layerprune.healing.engine import uses_deepspeed
from hf_layerprune.healing.training import Step, Trainer

SAVING, CURVE, TAG = "saving", "curve.json", "zero"
KEPT = 2  # the newest states; one more than needed, should the disk damage the last


def save(trainer: Trainer, folder: Path, curve: Sequence[Step]) -> None:
    """Keep the state after the last step of `curve` as `folder/step-<number>`, which appears whole or not at all.

    All processes call it. Frozen weights are not written: the checkpoint has them. HealingError if the disk fails.
    """
    accelerator, place = trainer.accelerator, folder / SAVING
    try:
        if accelerator.is_main_process:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        accelerator.wait_for_everyone()
        _write(trainer, place)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (place / CURVE).write_text(json.dumps([asdict(step) for step in curve]))
            _make_durable(place)
            os.rename(place, folder / f"step-{curve[-1].number:08}")
            fsync_folder(folder)
            for old in saved(folder)[:-KEPT]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()
    except (OSError, RuntimeError) as error:  # the latter is how torch reports a full disk
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk took no more"
        raise HealingError(f"{folder}: saving the state failed: {reason}. Free some space and run again.") from error


def saved(folder: Path) -> list[Path]:
    """The whole states in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and (path / CURVE).is_file())


def read_curve(state: Path) -> list[Step]:
    return [Step(**step) for step in json.loads((state / CURVE).read_text())]


def restore(trainer: Trainer, state: Path) -> None:
    """Put the trainer back into a saved state. All processes call it, as many as saved it. HealingError if it does not fit."""
    accelerator = trainer.accelerator
    own = state / _rng_name(accelerator.process_index)
    found = len(list(state.glob("random-*.pt")))
    if found != accelerator.num_processes:
        raise HealingError(f"{state}: saved by {found} processes, but now there are {accelerator.num_processes}. Launch as many again.")
    if uses_deepspeed(accelerator):
        path, _ = trainer.model.load_checkpoint(str(state), tag=TAG, load_module_strict=False)
        if path is None:
            raise HealingError(f"{state}: DeepSpeed cannot read the state. Remove that folder to go on from the one before.")
    else:
        content = torch.load(state / "state.pt", map_location="cpu", weights_only=True)
        parameters = dict(_trained(trainer))
        with torch.no_grad():
            for name, value in content["parameters"].items():
                parameters[name].copy_(value)
        trainer.optimizer.load_state_dict(content["optimizer"])
    random = torch.load(own, map_location="cpu", weights_only=True)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])


def _write(trainer: Trainer, place: Path) -> None:
    accelerator = trainer.accelerator
    if uses_deepspeed(accelerator):
        trainer.model.save_checkpoint(str(place), tag=TAG, exclude_frozen_parameters=True)
    elif accelerator.is_main_process:
        parameters = {name: p.detach().cpu() for name, p in _trained(trainer)}
        torch.save({"parameters": parameters, "optimizer": trainer.optimizer.state_dict()}, place / "state.pt")
    random = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state()
    torch.save(random, place / _rng_name(accelerator.process_index))


def _trained(trainer: Trainer) -> list[tuple[str, torch.nn.Parameter]]:
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _rng_name(rank: int) -> str:
    return f"random-{rank}.pt"


def _make_durable(folder: Path) -> None:
    for below, _, names in os.walk(folder, topdown=False):
        for name in names:
            handle = os.open(os.path.join(below, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(below))
