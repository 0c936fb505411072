"""The files beside the weights that a pruned model needs unchanged: tokenizer, processor, templates, licence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, README, RECORDS, safe_name
from hf_layerprune.checkpoint.files import NOT_FETCHED, POINTER, regular_file
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import ArtifactError, CheckpointError, shown

# Weights in any format, and pickles such as optimizer states: they have the old depth and must not travel with the new model.
WEIGHT_SUFFIXES = (
    ".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx", ".tflite", ".npz",
    ".distcp", ".ot",
)  # fmt: skip
MAX_FOLDERS = 64  # one in the other: no model needs as many
MAX_POINTER_BYTES = 1024


def check_ours(folder: Path) -> None:
    """ArtifactError if a folder, or what stands under its name, is not one that we made."""
    if not folder.is_dir() and str(folder) == "mini":
        raise ArtifactError(
            "mini is the model that comes with hf-layerprune, a source: it has no manifest and no records. Prune it "
            "(hf-layerprune convert mini), and pass the folder that this writes."
        )
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no folder of that name. Pass a folder that convert, apply or heal wrote.")
    if not (folder / RECORDS / MANIFEST).is_file():
        missing = f"no {RECORDS}/{MANIFEST}, so hf-layerprune did not make this folder"
        raise ArtifactError(f"{folder}: {missing}. Pass one that convert, apply or heal wrote.")


def list_side_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The side files of a checkpoint, relative to its folder, and the names of weight files, in any format.

    config.json, the model card, our own records and hidden files (.git, .cache of `hf download`, .gitattributes) are
    neither. CheckpointError naming the first link out of the folder, device, pipe, name that is not portable or folder too deep.
    """
    side, weights, refused = sort_files(folder)
    for reason in refused.values():
        raise CheckpointError(reason)
    return side, weights


def sort_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], dict[str, str]]:
    """As `list_side_files`, with what that refuses, and why, by name. CheckpointError if the folder cannot be listed."""
    side: list[Path] = []
    weights: list[str] = []
    refused: dict[str, str] = {}
    try:
        for name, plain in _walk(folder, ""):
            if is_weights(name):
                weights.append(name)
            elif name not in (CONFIG, README):
                try:
                    side.append(_checked(folder, name, plain))
                except CheckpointError as error:
                    refused[name] = str(error)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot list it: {error.strerror}. {to_read(error)}") from error
    return tuple(side), tuple(weights), refused


def is_of_the_model(name: str) -> bool:
    """Whether a file at this path is one that a manifest names: no model card, no record of ours, not hidden."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
    return name != README and parts[0] != RECORDS and not hidden


def is_weights(name: str) -> bool:
    """Whether a file holds weights, by its name, however that is spelt, and be they set aside (model.safetensors.bak)."""
    return name.lower().removesuffix(".bak").endswith(WEIGHT_SUFFIXES)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, bool]]:
    """The names of all files below a folder, in order, and whether each is a plain file: not a link, not even to a folder.

    A folder that lies too deep counts as a file that is none, its name with a slash at the end, and is not entered.
    """
    with os.scandir(folder / prefix) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") or entry.name == "__pycache__" or prefix + entry.name == RECORDS:
            continue
        if entry.is_dir(follow_symlinks=False):
            inner = f"{prefix}{entry.name}/"
            yield from _walk(folder, inner) if inner.count("/") <= MAX_FOLDERS else ((inner, False),)
        else:
            yield prefix + entry.name, entry.is_file(follow_symlinks=False)


def _checked(folder: Path, name: str, plain: bool) -> Path:
    if name.endswith("/"):
        raise CheckpointError(f"{folder}: the folder {shown(name)} is more than {MAX_FOLDERS} deep, which no model needs. Remove it.")
    if not safe_name(name):
        raise CheckpointError(f"{folder}: the file name {shown(name)} has a control character, backslash or drive. Rename or remove it.")
    if not plain:
        regular_file(folder, name, "Put a regular file there, or remove it.")
    if (folder / name).stat().st_size < MAX_POINTER_BYTES and (folder / name).read_bytes().startswith(POINTER):
        raise CheckpointError(f"{folder / name}: {NOT_FETCHED}")
    return Path(name)
