"""What every refusal of a checkpoint folder has in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.errors import CheckpointError, LayerPruneError
from tests.checkpoint.independent import snapshot


def refused(folder: Path, message: str, kind: type[LayerPruneError] = CheckpointError) -> None:
    """Opening must fail with one line that matches, and change nothing."""
    before = snapshot(folder)
    with pytest.raises(kind, match=message) as caught:
        Checkpoint.open(folder, "tiny")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200
    assert snapshot(folder) == before
