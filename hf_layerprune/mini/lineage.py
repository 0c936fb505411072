"""Whether a checkpoint is mini or made from it."""

from __future__ import annotations

from pathlib import Path

from hf_layerprune.mini import model_path


def comes_from_mini(folder: Path) -> bool:
    """Whether mini is the first ancestor: only its immediate source is in a model's records, but the tokenizer travels unchanged."""
    theirs, ours = folder / "tokenizer.json", model_path() / "tokenizer.json"
    return theirs.is_file() and theirs.stat().st_size == ours.stat().st_size and theirs.read_bytes() == ours.read_bytes()
