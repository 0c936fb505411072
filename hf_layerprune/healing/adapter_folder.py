"""A peft adapter as an output of its own, instead of a merged checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.checkpoint.copying import write_file
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.healing.trained_weights import TrainedWeights
from hf_layerprune.hub.listing import file_record

WRITER = "hf-layerprune adapter 1"


def write_adapter(
    checkpoint: Checkpoint, trained: TrainedWeights, config: Any, output: Path, *, overwrite: bool, records: Mapping[str, bytes]
) -> Manifest:
    """The trained adapters as `PeftModel.from_pretrained` reads them; config: peft's own LoraConfig. Raises as `rewrite` does."""
    known = checkpoint.commit is not None  # an id on the Hub; anything else is a folder of this machine
    config.base_model_name_or_path = checkpoint.id if known else str(checkpoint.path.resolve())
    config.revision = checkpoint.commit
    config.inference_mode = True
    with staged_folder(output, overwrite=overwrite, source=checkpoint.path, needed=trained.path.stat().st_size + (1 << 20)) as staging:
        with safe_open(trained.path, "pt") as file:
            tensors = {f"base_model.model.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        save_file(tensors, staging / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(staging)
        files = {path.name: _settled(path) for path in sorted(staging.iterdir())}
        manifest = Manifest(checkpoint.source, WRITER, "source", files, {})
        (staging / RECORDS).mkdir()
        write_file(staging / RECORDS / MANIFEST, manifest.dump())
        for name, content in records.items():
            write_file(staging / RECORDS / name, content)
    return manifest


def _settled(path: Path) -> FileRecord:
    """Make a file that a library wrote durable and readable like any other; its size and sha256."""
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_record(path)
