"""Write the healed checkpoint: trained tensors anew, everything else byte for byte, in one process and without the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint import rewrite
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.errors import HealingError
from hf_layerprune.healing.trained_weights import TrainedWeights

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def write_healed(
    checkpoint: Checkpoint, trained: TrainedWeights, output: Path, *, overwrite: bool, records: Mapping[str, bytes], work: Path
) -> Manifest:
    """`checkpoint` with the trained tensors in their places, proved, with the same layout, types and shards.

    work: a folder on a disk with room for the trained tensors. Raises CheckpointError or HealingError; then nothing is left.
    """
    values = work / "values"
    try:
        spans = _write_values(checkpoint, trained, values)
        return rewrite.write_healed(checkpoint, spans, output, overwrite=overwrite, records=records)
    finally:
        values.unlink(missing_ok=True)


def _write_values(checkpoint: Checkpoint, trained: TrainedWeights, path: Path) -> dict[str, TensorSpan]:
    """The new tensors' bytes, one after the other in a file, one in memory at a time."""
    spans = {}
    try:
        with path.open("wb") as file:
            for name in trained.changed():
                before = checkpoint.tensors.get(name)
                if before is None or before.dtype not in _DTYPES:
                    kind = before.dtype if before else "missing"
                    raise HealingError(f"{checkpoint.id}: tensor {name!r} was trained but is {kind} in the checkpoint. Please report this.")
                begin = file.tell()
                file.write(_bytes(trained.value(name, _read(before))))
                spans[name] = replace(before, file=path, begin=begin, end=file.tell())
    except OSError as error:
        raise HealingError(f"{path}: writing it failed: {error.strerror or error}. Free some space and run again.") from error
    return spans


def _read(span: TensorSpan) -> Tensor:
    with span.file.open("rb", buffering=0) as file:
        content = bytearray(os.pread(file.fileno(), span.nbytes, span.begin))
    return torch.frombuffer(content, dtype=_DTYPES[span.dtype]).reshape(span.shape)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1).data
