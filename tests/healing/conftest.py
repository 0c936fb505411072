from __future__ import annotations

from pathlib import Path

import pytest

from hf_layerprune.pruner import LayerPruner
from tests.one_thread import one_thread  # noqa: F401  # a fixture


@pytest.fixture(scope="session")
def pruned_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini without a quarter of the layers that may go, which no test writes to."""
    folder = tmp_path_factory.mktemp("pruned") / "mini-13L"
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    pruner.prune(layers=[5, 8, 12])
    pruner.save_pretrained(folder)
    return folder
