from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_layerprune import LayerPruner
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.evaluation.generation import LoadedModel, ready
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model
from tests.one_thread import one_thread  # noqa: F401  # a fixture


@pytest.fixture(scope="session")
def mini() -> LoadedModel:
    """The embedded model in fp32; tests leave it as it is."""
    return ready(load_model(model_path(), dtype=torch.float32), load_processor(model_path()))


@pytest.fixture
def mini_checkpoint() -> Checkpoint:
    return Checkpoint.open(model_path(), "mini")


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that we made: mini without three layers. Read only."""
    folder = tmp_path_factory.mktemp("made") / "short"
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    pruner.prune(layers="4,5,9")
    pruner.save_pretrained(folder)
    return folder


WriteTask = Callable[..., Path]


@pytest.fixture
def write_task(tmp_path: Path) -> WriteTask:
    """A function that writes lines to a JSONL file beside pictures 0.png to 3.png, and gives its path."""

    def write(lines: Sequence[Any], name: str = "questions.jsonl") -> Path:
        folder = tmp_path / "task"
        folder.mkdir(exist_ok=True)
        for number in range(4):
            Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(folder / f"{number}.png")
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
        return folder / name

    return write
