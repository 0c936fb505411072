"""The embedded mini Qwen3-VL: a trained model of a few million parameters, and the generator of its two domains."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The folder of the embedded checkpoint, as `from_pretrained` takes it."""
    return Path(__file__).parent / "model"


def comes_from_mini(folder: Path) -> bool:
    """Whether a checkpoint is mini or was made from it: the tokenizer travels unchanged."""
    theirs, ours = folder / "tokenizer.json", model_path() / "tokenizer.json"
    return theirs.is_file() and theirs.stat().st_size == ours.stat().st_size and theirs.read_bytes() == ours.read_bytes()
