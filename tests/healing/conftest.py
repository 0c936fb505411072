from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hf_layerprune.pruner import LayerPruner


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order on every machine, and no quarrel over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pruned_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini without a quarter of the layers that may go, which no test writes to."""
    folder = tmp_path_factory.mktemp("pruned") / "mini-13L"
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    pruner.prune(layers=[5, 8, 12])
    pruner.save_pretrained(folder)
    return folder
