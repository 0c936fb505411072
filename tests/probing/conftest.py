from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model
from tests.image_files import place  # noqa: F401  # a fixture
from tests.one_thread import one_thread  # noqa: F401  # a fixture
from tests.tiny_checkpoint import make_checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """A real Qwen3-VL of 6 layers and 2 DeepStack taps, random weights, fp32. Tests leave no hook on it."""
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")
    return load_model(folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def mini_model() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.fixture(scope="session")
def mini_processor() -> ProcessorMixin:
    return load_processor(model_path())
