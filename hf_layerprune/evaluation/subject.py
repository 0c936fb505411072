"""A model to evaluate: what decides its answers, known from its files alone, and how to load it."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.artifacts.eval_report import Environment, ModelSettings
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.processor_files import assembled, check_processor
from hf_layerprune.checkpoint.shards import tensor_digest
from hf_layerprune.errors import ModelError
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.models.remote_code import refuse_remote_code

if TYPE_CHECKING:
    from hf_layerprune.evaluation.generation import LoadedModel

TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".model")  # tokenizer, chat template, image processor, generation config
MOST_AT_ONCE = 64
WIDTH_AT_ONCE = 1 << 16  # a batch of 32 for a 2B model of width 2048, 16 for an 8B one of 4096


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and the options that say how it is loaded."""

    checkpoint: Checkpoint
    options: EvaluateOptions

    def __post_init__(self) -> None:
        refuse_remote_code(self.checkpoint.path)
        self.checkpoint.refuse_headless("evaluated")
        check_processor(self.checkpoint)

    @property
    def source(self) -> SourceRef:
        return self.checkpoint.source

    @cached_property
    def settings(self) -> ModelSettings:
        """What decides its answers besides the samples: every file of the model, how it is run, and with what."""
        side = hashlib.sha256()
        for path in self.checkpoint.side_files:
            if path.suffix in TEXT_SUFFIXES:
                side.update(f"{path.as_posix()}\0{_digest(self.checkpoint.file(path))}\0".encode())
        placed, attention = self.options.device_map, self.options.attn_implementation
        return ModelSettings(
            weights=tensor_digest(self.checkpoint.tensors),
            side_files=side.hexdigest(),
            device=self.options.device,
            dtype=self.options.dtype,
            device_map=None if placed is None else str(placed),
            attn_implementation=None if attention is None else str(attention),
            decoding="greedy",
            torch=version("torch"),
            transformers=version("transformers"),
        )

    @property
    def batch(self) -> int:
        """The most samples at once: unless told a power of two, up to 64, fewer for wide models."""
        if self.options.batch_size:
            return self.options.batch_size
        most = max(1, min(MOST_AT_ONCE, WIDTH_AT_ONCE // self.checkpoint.facts.hidden_size))
        return 1 << (most.bit_length() - 1)

    def load(self) -> LoadedModel:
        """The model and its processor in memory; ModelError if they do not load."""
        from hf_layerprune.evaluation.generation import ready
        from hf_layerprune.models.batches import load_processor
        from hf_layerprune.models.loading import SourceModel

        with assembled(self.checkpoint) as folder:
            processor = load_processor(folder, self.checkpoint.config.get("image_token_id"))
        model = SourceModel(self.checkpoint.path, **self.options.loading).for_probing(self.options.dtype, self.options.device)
        return ready(model, processor)


def environment(loaded: LoadedModel, batch: int) -> Environment:
    """Where and with what answers are generated."""
    import torch

    from hf_layerprune.models.loading import input_device

    device = input_device(loaded.model)
    config: Any = loaded.model.config
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        attention=str(config._attn_implementation),
        threads=torch.get_num_threads(),
        batch=batch,
        python=platform.python_version(),
        platform=platform.platform(),
        hf_layerprune=version("hf-layerprune"),
        torch=version("torch"),
        transformers=version("transformers"),
    )


def _digest(path: Path) -> str:
    try:
        with open(os.fspath(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error
