"""Healing and evaluating from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_layerprune import LayerPruner
from hf_layerprune.errors import LayerPruneError, UsageError

WEIGHTS = "model.safetensors"


def test_prune_heal_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.pruner.kept_folder", lambda kind: tmp_path / kind)
    source = LayerPruner.from_pretrained("mini", statistics_folder=None)
    source.prune(layers=[5, 8, 12])
    for act in (lambda: source.heal(tmp_path / "healed", "interlace"), source.evaluate):
        with pytest.raises(LayerPruneError, match=r"the last plan was not saved: call save_pretrained\(folder\) first"):
            act()
    source.save_pretrained(tmp_path / "pruned")
    pruned = LayerPruner.from_pretrained(tmp_path / "pruned", statistics_folder=None)
    with pytest.raises(UsageError, match=r"no setting 'batchsize'\. Did you mean 'batch_size'"):
        pruned.heal(tmp_path / "healed", settings={"batchsize": 4})
    lines: list[str] = []
    steps: list[int] = []
    settings = {"batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    record = pruned.heal(
        tmp_path / "healed", "interlace", data="mini,count=8", settings=settings, device="cpu", say=lines.append,
        progress=lambda step, done, total: steps.append(done),
    )  # fmt: skip
    assert record.steps == 2 and steps == [1, 2]
    healing = {"data": "mini,count=8", "settings": settings, "device": "cpu", "say": lines.append}
    source.heal(tmp_path / "healed too", "interlace", **healing)  # the pruned folder, not the source that the pruner was made for
    assert (tmp_path / "healed too" / WEIGHTS).read_bytes() == (tmp_path / "healed" / WEIGHTS).read_bytes()
    assert source.evaluate(samples=2, output=tmp_path / "scores").model.source.fingerprint == pruned.checkpoint.source.fingerprint
    assert source.evaluate(samples=2, source=True, output=tmp_path / "dense scores").model.source.id == "mini"
    source.prune(layers=[5])
    with pytest.raises(LayerPruneError, match="not saved"):
        source.evaluate(samples=2)
    report = LayerPruner.from_pretrained(tmp_path / "healed", statistics_folder=None).evaluate(samples=10, against=tmp_path / "pruned")
    assert report.model.id == "healed" and report.against is not None and report.against.id == "pruned"
