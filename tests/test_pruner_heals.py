"""Healing and evaluating from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_layerprune import LayerPruner
from hf_layerprune.errors import LayerPruneError, UsageError

WEIGHTS = "model.safetensors"


def test_prune_heal_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.data.store.kept_folder", lambda kind: tmp_path / kind)
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


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On mini: floor(14 p) of its 16 layers go, the last time 5; two samples and two images a domain are enough to run every line."""
    text = (Path(__file__).parents[1] / "README.md").read_text().partition("## From Python")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    for theirs, ours in (
        ("Qwen/Qwen3-VL-4B-Instruct", "mini"),
        ("qwen3-vl-33-layers", "qwen3-vl-11-layers"),
        ('"mini")  #', '"mini", samples=2)  #'),
    ):
        assert code.count(theirs), theirs
        code = code.replace(theirs, ours)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_layerprune.data.store.kept_folder", lambda kind: tmp_path / kind)
    monkeypatch.setattr("hf_layerprune.probing.probe_set.SYNTHETIC_IMAGES", 2)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"].config.text_config.num_hidden_layers == 11
    assert {*tmp_path.glob("qwen3-vl-*")} == {tmp_path / f"qwen3-vl-{layers}-layers" for layers in (15, 13, 11)}
    assert (tmp_path / "qwen3-vl-11-layers" / "layerprune" / "eval.json").is_file()
