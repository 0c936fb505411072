"""LayerPruner: probe once, plan as often as wanted and always for the source, save what the last plan says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from hf_layerprune import LayerPruneError, LayerPruner, LayerStatistics, PruningPlan
from hf_layerprune.errors import ArtifactError, DataError, SourceError, StrategyError, UsageError
from hf_layerprune.mini import model_path
from tests.checkpoint.independent import snapshot
from tests.tiny_checkpoint import make_checkpoint


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of statistics that holds those of mini over two pictures a domain, as a first run leaves it."""
    folder = tmp_path_factory.mktemp("statistics")
    LayerPruner.from_pretrained("mini", statistics_folder=folder).probe(samples=2)
    return folder


@pytest.fixture
def passes() -> Iterator[list[str]]:
    """Grows by one with every forward pass of a Qwen3-VL from images on in this process."""
    seen: list[str] = []

    def count(module: nn.Module, args: object) -> None:
        if type(module).__name__ == "Qwen3VLModel":
            seen.append("pass")

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    yield seen
    handle.remove()


@pytest.fixture
def mini(probed: Path) -> LayerPruner:
    """With statistics at hand; the model is not loaded."""
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=probed)
    pruner.probe(samples=2)
    return pruner


def test_a_sweep_plans_from_the_source(mini: LayerPruner, passes: list[str]) -> None:
    """16 layers: floor(14 p) go, and a smaller budget's plan does not change because a larger one came before."""
    statistics = mini.statistics
    plans = {budget: mini.prune(budget=budget) for budget in (0.4, 0.1, "25%")}
    assert [(budget, len(plan.drop), plan.layers) for budget, plan in plans.items()] == [(0.4, 5, 16), (0.1, 1, 16), ("25%", 3, 16)]
    assert mini.plan is plans["25%"] and mini.statistics is statistics and passes == []
    again = LayerPruner(mini.checkpoint).prune(budget=0.1, statistics=statistics)
    assert again == plans[0.1]
    assert all(plan.source.id == "mini" and plan.statistics == statistics.fingerprint for plan in plans.values())


def test_prune_probes_once_if_it_must(tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults ask 32 pictures a domain, which is much for a test: two take their place."""
    monkeypatch.setattr("hf_layerprune.probing.probe_set.SYNTHETIC_IMAGES", 2)
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    pruner.prune("random", num_layers=4)
    pruner.prune(layers="5,9-10")
    assert passes == [] and pruner.statistics is None
    pruner.prune("mixed")
    assert len(passes) == 4
    for method in ("math", "cka", "interlace"):
        pruner.prune(method, 0.25)
    assert len(passes) == 4


def test_statistics_are_found_again_without_the_model(probed: Path, passes: list[str]) -> None:
    first = LayerPruner.from_pretrained("mini", statistics_folder=probed).probe(samples=2)
    again = LayerPruner.from_pretrained(model_path(), statistics_folder=probed)
    second = again.probe(samples=2)
    assert np.array_equal(second.cosine_sum, first.cosine_sum) and second.record == first.record
    # By the name that it was asked for, though measured under another.
    assert again.prune().source.id == second.model.source.id == "model" and first.model.source.id == "mini"
    assert passes == []
    again.probe(samples=1)
    assert len(passes) == 2


def test_the_model_follows_the_plan(mini: LayerPruner) -> None:
    mini.prune(layers=[4, 5])
    first = mini.model
    assert len(first.model.language_model.layers) == 14 and mini.model is first
    assert first.config.text_config.num_hidden_layers == 14 and first.config.layer_pruning["kept_layers"][4] == 6
    mini.prune(layers=[4, 5, 6])
    second = mini.model
    assert len(second.model.language_model.layers) == 13 and len(first.model.language_model.layers) == 14
    assert [layer.self_attn.layer_idx for layer in first.model.language_model.layers] == list(range(14))
    shared = first.model.language_model.layers[0].mlp.up_proj.weight
    assert second.model.language_model.layers[0].mlp.up_proj.weight.data_ptr() == shared.data_ptr()


def test_saving(mini: LayerPruner, tmp_path: Path) -> None:
    before = snapshot(model_path())
    plan = mini.prune("mixed", 0.25)
    mini.save_pretrained(tmp_path / "first", max_shard_size="1MB")
    records = tmp_path / "first" / "layerprune"
    assert PruningPlan.load(records / "plan.json") == plan
    assert LayerStatistics.load(records / "statistics.safetensors").fingerprint == plan.statistics
    assert len(list((tmp_path / "first").glob("model-*.safetensors"))) > 5
    with pytest.raises(LayerPruneError, match="exists"):
        mini.save_pretrained(tmp_path / "first")
    mini.prune(layers="7")
    mini.save_pretrained(tmp_path / "first", overwrite=True, verify=False)
    assert not (records / "statistics.safetensors").exists() and (tmp_path / "first" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "first" / "config.json").read_text())["text_config"]["num_hidden_layers"] == 15
    assert snapshot(model_path()) == before


def test_a_pruned_folder_is_a_source_of_its_own(mini: LayerPruner, tmp_path: Path) -> None:
    mini.prune(layers="4,9")
    mini.save_pretrained(tmp_path / "once")
    second = LayerPruner.from_pretrained(tmp_path / "once", statistics_folder=None)
    plan = second.prune(layers="4,8")  # of the first ancestor: 5 and 10
    assert plan.source.id == "once" and plan.layers == 14
    assert plan.kept_original_layers() == (0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14, 15)
    second.save_pretrained(tmp_path / "twice")
    config = json.loads((tmp_path / "twice" / "config.json").read_text())
    assert config["layer_pruning"]["original_layers"] == list(plan.kept_original_layers())
    assert config["layer_pruning"]["original_depth"] == 16
    mini.prune(layers="4,5,9,10")
    mini.save_pretrained(tmp_path / "at-once")
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (tmp_path / "at-once/model.safetensors").read_bytes()


def test_statistics_of_another_model_are_refused(mini: LayerPruner, tmp_path: Path) -> None:
    other = LayerPruner.from_pretrained(make_checkpoint(tmp_path / "other", layers=16), statistics_folder=None)
    with pytest.raises(ArtifactError, match="of another model"):
        other.prune("mixed", statistics=mini.statistics)
    assert other.plan is None


def test_nothing_to_save_without_a_plan(tmp_path: Path) -> None:
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    for use in (lambda: pruner.save_pretrained(tmp_path / "out"), lambda: pruner.model):
        with pytest.raises(LayerPruneError, match="prune"):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["0", "-1", "5 apples", "", 0, "1.5GB", "GB"])
def test_a_shard_size_that_is_none(mini: LayerPruner, tmp_path: Path, size: str | int) -> None:
    mini.prune(layers="7")
    with pytest.raises(UsageError, match=r"^max_shard_size="):
        mini.save_pretrained(tmp_path / "out", max_shard_size=size)
    assert not list(tmp_path.iterdir())


def test_a_deepstack_layer_is_warned_of(mini: LayerPruner) -> None:
    with pytest.warns(UserWarning, match="drops layer 1 .*DeepStack"):
        mini.prune(layers="1", protect="first,last")


def test_layers_to_protect_as_a_list_and_a_dtype_of_torch(mini: LayerPruner, tmp_path: Path) -> None:
    assert mini.prune(layers=[7], protect=["first", "last", 5]).protected == (0, 5, 15)
    assert mini.prune(layers=[7], protect=[]).protected == ()
    assert repr(mini) == "LayerPruner('mini', qwen3_vl, 16 decoder layers, 15 layers kept by the last plan)"
    in_bf16 = LayerPruner.from_pretrained("mini", dtype=torch.bfloat16, statistics_folder=tmp_path)
    in_bf16.prune(layers=[7])
    assert in_bf16.model.dtype == torch.bfloat16


def test_refusals_leave_the_last_plan(mini: LayerPruner) -> None:
    plan = mini.prune(layers="7")
    for error, arguments in (
        (UsageError, {"budget": 1.5}),
        (UsageError, {"budget": 0.2, "num_layers": 2}),
        (LayerPruneError, {"method": "miced"}),
        (StrategyError, {"layers": [0]}),
        (UsageError, {"layers": [16]}),
    ):
        with pytest.raises(error):
            mini.prune(**arguments)
        assert mini.plan is plan


def test_a_source_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="neither"):
        LayerPruner.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a file or folder"):
        LayerPruner.from_pretrained("mini", statistics_folder=None).probe(math_images=tmp_path / "nowhere")


def test_probing_in_another_dtype_is_another_statistic(probed: Path, passes: list[str]) -> None:
    pruner = LayerPruner.from_pretrained("mini", dtype="bfloat16", statistics_folder=probed)
    statistics = pruner.probe(samples=1)
    assert len(passes) == 2 and statistics.record.settings["dtype"] == "bfloat16"
    assert LayerPruner.from_pretrained("mini", statistics_folder=probed).probe(samples=1).record.settings["dtype"] == "float32"


def test_the_pruned_model_in_memory_is_the_one_on_disk(mini: LayerPruner, tmp_path: Path) -> None:
    """Down to the dtype: mini's files are bf16, and so is `.model` unless another one was asked for."""
    mini.prune("mixed", 0.25)
    mini.save_pretrained(tmp_path / "out")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    held = mini.model.state_dict()
    assert held.keys() == loaded.keys() and all(torch.equal(held[name], loaded[name]) for name in held)
