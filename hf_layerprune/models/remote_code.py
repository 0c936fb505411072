"""Code that a checkpoint brings along is never run: where a model asks for it, it is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from hf_layerprune.artifacts.jsonfile import MAX_JSON_BYTES, read_bounded
from hf_layerprune.errors import ModelError

# Where transformers looks for 'auto_map': the configurations of the model and of each part of its processor.
NAMING_FILES = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)


def refuse_remote_code(folder: Path) -> None:
    """ModelError naming the file if the model of a folder asks for code of its own: without it, it would not be this model.

    ArtifactError if one of these files is no regular file or too large to be one.
    """
    for path in (folder / name for name in NAMING_FILES):
        if path.exists() and _names_code(path):
            raise ModelError(
                f"{path} names code of its own ('auto_map'), which hf-layerprune does not run. Remove the key if transformers knows "
                "the model without it."
            )


def _names_code(path: Path) -> bool:
    """Whether 'auto_map' stands in a configuration, or in one of its parts, as processor_config.json has them."""
    try:
        value = json.loads(read_bounded(path, "configuration", MAX_JSON_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False  # whoever loads it says what is wrong
    parts = [value, *value.values()] if isinstance(value, dict) else []
    return any(isinstance(part, dict) and "auto_map" in part for part in parts)
