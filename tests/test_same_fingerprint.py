"""A fine-tune that leaves the fingerprint's few blocks alone is still another model to a probe: its statistics are measured anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_layerprune import LayerPruneError, LayerPruner
from hf_layerprune.checkpoint.shards import tensor_digest
from hf_layerprune.mini import model_path


def test_statistics_of_another_model_are_not_reused(tmp_path: Path) -> None:
    """mini with one projection of layer 7 set to NaN: by its fingerprint mini, by every pass through it not."""
    other = shutil.copytree(model_path(), tmp_path / "other")
    here = LayerPruner.from_pretrained("mini", statistics_folder=tmp_path / "kept")
    span = here.checkpoint.tensors["model.language_model.layers.7.mlp.down_proj.weight"]
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(span.begin)
        file.write(np.full(span.nbytes // 2, 0x7FC0, "<u2").tobytes())  # NaN in bf16
    there = LayerPruner.from_pretrained(other, statistics_folder=tmp_path / "kept")
    assert there.facts.source.fingerprint == here.facts.source.fingerprint
    assert tensor_digest(there.checkpoint.tensors) != tensor_digest(here.checkpoint.tensors)
    here.probe(samples=1)
    with pytest.raises(LayerPruneError, match="at decoder layer 7"):
        there.probe(samples=1)
