"""The source model in memory: loaded when something needs it, at most one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_layerprune.models.loading import choose_device, choose_dtype, load_model
from hf_layerprune.models.remote_code import refuse_remote_code


class SourceModel:
    """Loads a checkpoint folder on demand, and again only if another dtype or device is asked for."""

    def __init__(self, path: Path, *, device_map: Any = None, attn_implementation: str | None = None) -> None:
        self._path = path
        self._options: Mapping[str, Any] = {"device_map": device_map, "attn_implementation": attn_implementation}
        self._key: tuple[Any, ...] = ()
        self._model: PreTrainedModel | None = None

    def get(self, dtype: torch.dtype | str, device: torch.device | None = None) -> PreTrainedModel:
        """The model in a dtype ("auto" is the checkpoint's) and on a device (None leaves it where it loads).

        ModelError if it does not load, or asks for code of its own."""
        key = (dtype, device)
        if self._model is None or key != self._key:
            refuse_remote_code(self._path)
            self._model = None  # before the next one takes its place in memory
            self._model = load_model(self._path, dtype=dtype, device=device, **self._options)
            self._key = key
        return self._model

    def for_probing(self, dtype: str, device: str) -> PreTrainedModel:
        """The model as it is probed: `auto` is fp32 on a CPU and the checkpoint's dtype on an accelerator."""
        place = choose_device(device)
        return self.get(choose_dtype(dtype, place), None if self._options["device_map"] else place)
