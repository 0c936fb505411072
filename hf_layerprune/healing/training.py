"""The training loop: the same samples in the same order whatever the number of processes, and states from which it resumes exactly."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from hf_layerprune.artifacts.healing_record import Recipe
from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.errors import HealingError, UsageError
from hf_layerprune.healing.encoding import IGNORED, Collator
from hf_layerprune.healing.engine import configure_rounds, rounds_per_step, uses_deepspeed, writing

CURVE, ZERO = "curve.json", "zero"  # in a saved state: the steps so far, and DeepSpeed's folder
STATES = 2  # the newest that are kept; one more than needed, should the disk damage the last


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    number: int
    loss: float  # nats per answer token, the mean over the whole batch
    learning_rate: float
    grad_norm: float
    tokens: int  # of all samples, padding not counted
    seconds: float  # since the step before
    memory: int  # peak bytes of this process: on the accelerator or, without one, resident


class Trainer:
    """One process's part of a run: model and optimizer under Accelerate, and the samples that are its own."""

    def __init__(self, accelerator: Any, model: Any, recipe: Recipe, data: Any, collate: Collator) -> None:
        self.accelerator, self.recipe, self._data, self._collate = accelerator, recipe, data, collate
        self.steps = steps_in(len(data), recipe)
        configure_rounds(accelerator, recipe)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        numbers = [getattr(p, "ds_numel", p.numel()) for p in self._parameters]  # under ZeRO-3 a process holds but a part
        self.counts = {"parameters": sum(numbers), "tensors": len(numbers)}
        self.model, self.optimizer = accelerator.prepare(model, _optimizer(model, recipe))
        self.model.train()

    def run(self, start: int = 0) -> Iterator[Step]:
        """Train from step `start` on, yielding each step when it is done."""
        before = time.monotonic()
        batches = iter(self._loader(start))
        rounds = self.accelerator.gradient_accumulation_steps
        for number in range(start, self.steps):
            rate = learning_rate(number, self.steps, self.recipe)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, norm, tokens = self._step([next(batches) for _ in range(rounds)])
            for what, value in (("loss", loss), ("gradients' norm", norm)):
                if not math.isfinite(value):
                    raise HealingError(f"step {number + 1}: the {what} is {value}. Lower the learning rate, or use --set precision=fp32.")
            now = time.monotonic()
            yield Step(number + 1, loss, rate, norm, tokens, now - before, _peak_memory(self.accelerator.device))
            before = now

    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The trained parameters by name; under ZeRO-3 a process holds but a part of each."""
        model: Any = self.accelerator.unwrap_model(self.model)
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def save(self, folder: Path, curve: Sequence[Step]) -> None:
        """Keep the state after the last step of `curve` as `folder/step-<number>`, which appears whole or not at all.

        All processes call it. Frozen weights are not written: the checkpoint has them. HealingError if the disk fails.
        """
        accelerator, place = self.accelerator, folder / "saving"
        try:
            with writing(folder):
                if accelerator.is_main_process:
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(parents=True)
                accelerator.wait_for_everyone()
                self._write_state(place)
                accelerator.wait_for_everyone()
                if accelerator.is_main_process:
                    (place / CURVE).write_text(json.dumps([asdict(step) for step in curve]))
                    _make_durable(place)
                    os.rename(place, folder / f"step-{curve[-1].number:08}")
                    fsync_folder(folder)
                    for old in saved_states(folder)[:-STATES]:
                        shutil.rmtree(old)
                accelerator.wait_for_everyone()
        except HealingError:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def restore(self, state: Path) -> list[Step]:
        """Put the trainer back into a saved state and return its steps. All processes call it; HealingError if it does not fit."""
        accelerator = self.accelerator
        if (found := len(list(state.glob("random-*.pt")))) != accelerator.num_processes:
            raise HealingError(f"{state}: saved by {found} processes, but now there are {accelerator.num_processes}. Launch as many again.")
        if uses_deepspeed(accelerator):
            path, _ = self.model.load_checkpoint(str(state), tag=ZERO, load_module_strict=False)
            if path is None:
                raise HealingError(f"{state}: DeepSpeed cannot read the state. Remove that folder to go on from the one before.")
        else:
            content = torch.load(state / "state.pt", map_location="cpu", weights_only=True)
            parameters = dict(self.trained())
            with torch.no_grad():
                for name, value in content["parameters"].items():
                    parameters[name].copy_(value)
            self.optimizer.load_state_dict(content["optimizer"])
        random = torch.load(state / f"random-{accelerator.process_index}.pt", map_location="cpu", weights_only=True)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
        return [Step(**step) for step in json.loads((state / CURVE).read_text())]

    def _step(self, batches: Sequence[Mapping[str, Tensor]]) -> tuple[float, float, int]:
        """Forward and backward over this process's share and one optimizer step: the batch's loss, gradient norm and tokens."""
        device, share = self.accelerator.device, len(batches) * self.accelerator.num_processes
        counts = [(int((batch["labels"][:, 1:] != IGNORED).sum()), int(batch["attention_mask"].sum())) for batch in batches]
        answers, tokens = self._summed(torch.tensor(counts, dtype=torch.float64).sum(0)).tolist()
        total, norm = torch.zeros((), dtype=torch.float64, device=device), 0.0
        for batch in batches:
            with self.accelerator.accumulate(self.model):
                loss = answer_loss(self.model, {name: value.to(device, non_blocking=True) for name, value in batch.items()})
                total += loss.detach()
                # Accelerate and DeepSpeed average over rounds and processes; the loss is a mean over the whole batch's answer tokens.
                self.accelerator.backward(loss * (share / max(1.0, answers)))
                if self.accelerator.sync_gradients and not uses_deepspeed(self.accelerator):
                    norm = float(self.accelerator.clip_grad_norm_(self._parameters, self.recipe.max_grad_norm or math.inf))
                elif self.accelerator.sync_gradients:
                    norm = float(self.model.get_global_grad_norm() or 0.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return float(self._summed(total)) / max(1.0, answers), norm, int(tokens)

    def _summed(self, value: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")
        return summed.cpu()

    def _loader(self, start: int) -> DataLoader[Any]:
        workers = 0 if self.accelerator.device.type == "cpu" else 4  # INTERLACE's four; on a CPU the cores are needed for training
        batches = list(my_batches(len(self._data), self.recipe, self.accelerator.process_index, self.accelerator.num_processes, start))
        own = torch.Generator()  # else the loader draws from the stream of the dropout masks, and a resumed run gets others
        return DataLoader(self._data, batch_sampler=batches, collate_fn=self._collate, num_workers=workers, generator=own)

    def _write_state(self, place: Path) -> None:
        if uses_deepspeed(self.accelerator):
            self.model.save_checkpoint(str(place), tag=ZERO, exclude_frozen_parameters=True)
        elif self.accelerator.is_main_process:
            parameters = {name: p.detach().cpu() for name, p in self.trained()}
            torch.save({"parameters": parameters, "optimizer": self.optimizer.state_dict()}, place / "state.pt")
        random = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()
        torch.save(random, place / f"random-{self.accelerator.process_index}.pt")


def saved_states(folder: Path) -> list[Path]:
    """The whole states in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and (path / CURVE).is_file())


def steps_in(samples: int, recipe: Recipe) -> int:
    """Optimizer steps of all epochs; samples that do not fill a last batch are left out. UsageError for less than one batch."""
    if samples < recipe.batch_size:
        raise UsageError(f"{samples} samples are fewer than one batch of {recipe.batch_size}: add data, or --set batch_size=.")
    return samples // recipe.batch_size * recipe.epochs


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of a step, counted from 0: a linear warmup, then half a cosine down to zero (both papers)."""
    warmup = math.ceil(recipe.warmup_ratio * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def my_batches(samples: int, recipe: Recipe, rank: int, processes: int, start: int = 0) -> Iterator[list[int]]:
    """The samples of each forward pass of a process, from step `start` on.

    A step takes the same `batch_size` samples whatever the number of processes. The first epoch takes them in the order in which
    they were mixed, each later one in another.
    """
    per_epoch, rounds = samples // recipe.batch_size, rounds_per_step(recipe, processes)
    share = recipe.batch_size // processes
    for step in range(start, per_epoch * recipe.epochs):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == start:
            order = list(range(samples))
            if epoch:
                Random(f"epoch {epoch}").shuffle(order)
        first = place * recipe.batch_size + rank * share
        for turn in range(rounds):
            yield order[first + share * turn // rounds : first + share * (turn + 1) // rounds]


def answer_loss(model: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The summed cross-entropy, in nats, of the tokens that have a label.

    Logits are made for these places alone: with a vocabulary of 152,000, those of a whole sequence take more memory than a small model.
    """
    labels = batch["labels"][:, 1:]
    places = (labels != IGNORED).any(0).nonzero().squeeze(1)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if not len(places):  # every process must make the same passes
        places = torch.zeros(1, dtype=torch.long, device=labels.device)
    if getattr(model, "hf_device_map", None):  # a tensor of places would have to be on the last layer's device
        first = int(places[0])
        logits = model(**inputs, use_cache=False, logits_to_keep=batch["labels"].shape[1] - first).logits.to(labels.device)[
            :, places - first
        ]
    else:
        logits = model(**inputs, use_cache=False, logits_to_keep=places).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels[:, places].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _optimizer(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; norms and biases are not decayed, as transformers' Trainer does it."""
    decayed: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decayed[len(getattr(parameter, "ds_shape", parameter.shape)) > 1].append(parameter)
    groups = [{"params": decayed[True], "weight_decay": recipe.weight_decay}, {"params": decayed[False], "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _make_durable(folder: Path) -> None:
    for below, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(os.path.join(below, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(below))
