"""The files beside the weights that a pruned model needs unchanged: tokenizer, processor, templates, licence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hf_layerprune.checkpoint.config import CONFIG
from hf_layerprune.checkpoint.folder import regular_file, safe_name
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError, shown

RECORDS = "layerprune"  # the folder of our own records, and two of them
PLAN, MANIFEST = "plan.json", "manifest.json"
README = "README.md"

# Weights in any format, and pickles such as optimizer states: they have the old depth and must not travel with the new model.
WEIGHT_SUFFIXES = (
    ".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx", ".tflite", ".npz",
)  # fmt: skip


def list_side_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The side files of a checkpoint, relative to its folder, and the names of weight files, in any format.

    config.json, the model card, our own records and hidden files (.git, .cache of `hf download`, .gitattributes) are
    neither. CheckpointError naming the first link out of the folder, device, pipe or name that is not portable.
    """
    side: list[Path] = []
    weights: list[str] = []
    try:
        for name, plain in _walk(folder, ""):
            if name.endswith(WEIGHT_SUFFIXES):
                weights.append(name)
            elif name not in (CONFIG, README):
                side.append(_checked(folder, name, plain))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot list it: {error.strerror}. {to_read(error)}") from error
    return tuple(side), tuple(weights)


def is_of_the_model(name: str) -> bool:
    """Whether a file at this path is one that a manifest names: no model card, no record of ours, not hidden."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
    return name != README and parts[0] != RECORDS and not hidden


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, bool]]:
    """The names of all files below a folder, in order, and whether each is a plain file: not a link, not even to a folder."""
    with os.scandir(folder / prefix) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") or entry.name == "__pycache__" or prefix + entry.name == RECORDS:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.is_file(follow_symlinks=False)


def _checked(folder: Path, name: str, plain: bool) -> Path:
    if not safe_name(name):
        raise CheckpointError(f"{folder}: the file name {shown(name)} has a control character, backslash or drive. Rename or remove it.")
    if not plain:
        regular_file(folder, name, "Put a regular file there, or remove it.")
    return Path(name)
