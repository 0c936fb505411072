"""The embedded mini Qwen3-VL: a trained model of a few million parameters, and the generator of its two domains."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The folder of the embedded checkpoint, as `from_pretrained` takes it."""
    return Path(__file__).parent / "model"
