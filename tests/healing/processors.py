"""Processors like mini's, with another chat template or other limits on the size of images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor


def mini_processor(
    place: Path, *, template: str | None = None, size: tuple[int, int] | None = None, merges: Sequence[tuple[str, str]] = ()
) -> Any:
    """mini's processor, from a copy in `place`; size: the least and the most pixels of an image; merges: more of its tokenizer."""
    folder = place / "processor"
    shutil.copytree(model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if size is not None:
        path = folder / "preprocessor_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"size": {"shortest_edge": size[0], "longest_edge": size[1]}}))
    if merges:
        path = folder / "tokenizer.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model"]["vocab"] |= {"".join(pair): 700 + number for number, pair in enumerate(merges)}
        config["model"]["merges"] += [list(pair) for pair in merges]
        path.write_text(json.dumps(config), encoding="utf-8")
    return load_processor(folder)
