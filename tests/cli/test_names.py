"""What people type for a model, a dataset, a setting or a type of number, in all of its spellings, and what a misspelt one is told."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerprune import LayerPruner
from hf_layerprune.artifacts.option import DTYPES
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import UsageError
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.healing.recipes import changed, recipe_named
from hf_layerprune.models.loading import choose_dtype
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.publishing.options import PushOptions
from hf_layerprune.publishing.push import named_target
from tests.hub.loopback import LoopbackHub
from tests.hub.models import PRUNED, SOURCE
from tests.hub.state import Files

Run = Any


@pytest.mark.parametrize("name", DTYPES)
def test_every_spelling_of_a_dtype(name: str) -> None:
    """The same value whatever was typed: what is kept under it between runs is found again."""
    given: list[object] = [*DTYPES[name], DTYPES[name][-1].upper()]
    given += [] if name == "auto" else [getattr(torch, name), f"torch.{name}"]
    for dtype in given:
        assert ProbeOptions(dtype=dtype).dtype == EvaluateOptions(dtype=dtype).dtype == name  # type: ignore[arg-type]
        assert choose_dtype(dtype) == ("auto" if name == "auto" else getattr(torch, name))  # type: ignore[arg-type]
        assert LayerPruner.from_pretrained("mini", dtype=dtype, statistics_folder=None)._dtype == name  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "precision"), [("bfloat16", "bf16"), ("bf16", "bf16"), ("float32", "fp32"), ("float", "fp32")])
def test_every_spelling_of_a_precision(given: str, precision: str) -> None:
    assert changed(recipe_named("interlace"), {"precision": given}).precision == precision


@pytest.fixture
def ways(hub: LoopbackHub) -> Callable[[str], list[str]]:
    """A function that names a repository of the loopback Hub in every way at its present commit."""
    commit = hub.repos[SOURCE].refs["main"]
    return lambda id: [
        f"{id}/",
        f"{id}@main",
        f"hf://{id}",
        f"hf://{id}@{commit}",
        f"https://huggingface.co/{id}",
        f"{hub.url}/{id}/tree/main",
        f"{hub.url}/{id}/blob/{commit}/config.json",
    ]


def test_every_name_of_a_model(run_here: Run, here: Path, ways: Callable[[str], list[str]], published: Files) -> None:
    """In every place of the command line where a model is named, by the same words as its id."""
    expected = run_here("inspect", SOURCE, "--json").stdout
    for name in ways(SOURCE):
        done = run_here("inspect", name, "--json")
        assert done.returncode == 0, (name, done.stderr)
        assert {**json.loads(done.stdout), "network_bytes": 0} == {**json.loads(expected), "network_bytes": 0}
    plan = f"plan {ways(SOURCE)[5]} --layers 5 -o plan.json"
    for line in (plan, f"apply {ways(SOURCE)[2]} plan.json -o one", f"convert {ways(SOURCE)[4]} --layers 5 -o two", "inspect mini/"):
        done = run_here(*line.split())
        assert done.returncode == 0, (line, done.stderr)
    assert (here / "one/model.safetensors").read_bytes() == (here / "two/model.safetensors").read_bytes()
    shutil.rmtree(here / "one")
    address = f"https://huggingface.co/{PRUNED}"
    for line in (f"verify {address}", f"verify {PRUNED}/", f"apply mini {address} -o one", f"plan hf://{PRUNED} -o again.json"):
        done = run_here(*line.split())
        assert done.returncode == 0, (line, done.stderr)


REFUSED = (
    ("inspect https://huggingface.co/datasets/a/b", 2, "is the address of a dataset, not of a model"),
    ("convert https://huggingface.co/spaces/a/b", 2, "is the address of a space"),
    ("inspect https://huggingface.co/a/b/tree/main --revision v1", 2, "names a revision, and --revision names another"),
    ("inspect hf://a/b/checkpoint-500", 2, "names 'checkpoint-500' within a/b"),
    ("heal mini --data https://huggingface.co/a/b", 2, "is the address of a model; a dataset's is"),
    ("evaluate mini --tasks hf://a/b", 2, "is the address of a model; a dataset's is"),
    ("push {short} https://huggingface.co/datasets/a/b", 2, "not a valid id of a repository"),
    ("push {short} a/b@main --revision v1", 2, "--revision names another"),
)


@pytest.mark.parametrize(("line", "code", "said"), REFUSED)
def test_names_that_are_refused(run_in_process: Run, pruned: Path, line: str, code: int, said: str) -> None:
    done = run_in_process(*line.format(short=pruned).split())
    assert done.returncode == code and said in done.stderr.splitlines()[-1]


def test_every_name_of_a_dataset_and_of_a_target() -> None:
    for name in ("a/b/", "hf://datasets/a/b", "https://huggingface.co/datasets/a/b", "hf.co/datasets/a/b/viewer/default/train"):
        assert DataSpec.parse(f"{name},split=test") == DataSpec("a/b", split="test")
    for name in ("a/b@v1", "hf://datasets/a/b@v1", "https://huggingface.co/datasets/a/b/tree/v1"):
        assert DataSpec.parse(name) == DataSpec.parse(f"{name},revision=v1") == DataSpec("a/b", revision="v1")
        with pytest.raises(UsageError, match="revision=v2 names another"):
            DataSpec.parse(f"{name},revision=v2")
    for name in ("me/x", "me/x/", "hf://me/x", "https://huggingface.co/me/x"):
        assert named_target(name, PushOptions()) == ("me/x", PushOptions())
    assert named_target("https://huggingface.co/me/x/tree/refs%2Fpr%2F3", PushOptions()) == ("me/x", PushOptions(revision="refs/pr/3"))


def test_a_misspelt_source_that_is_taken(run_here: Run, here: Path, pruned: Path) -> None:
    shutil.copytree(pruned, here / "qwen-short")
    for name, taken in (("mimi", "mini"), ("qwen-shrot", "qwen-short")):
        refused = run_here("inspect", name)
        assert refused.returncode == 1 and f"Did you mean '{taken}'?" in refused.stderr
        done = run_here("inspect", name, "--yes")
        assert done.returncode == 0 and done.stderr == f"taking {taken}\n" and done.stdout == run_here("inspect", taken).stdout


def test_misspelt_statistics(run_here: Run, here: Path, statistics: Path) -> None:
    alone = run_here("plan", "stat.safetensors", "-o", "plan.json")
    assert alone.returncode == 1 and "hf-layerprune probe SOURCE -o stat.safetensors makes it." in alone.stderr
    shutil.copy(statistics, here / "statistics.safetensors")
    near = run_here("plan", "statistic.safetensors", "-o", "plan.json")
    assert near.stderr.endswith("there is no statistics file of that name. Did you mean statistics.safetensors?\n")
    far = run_here("plan", "./of-qwen.safetensors", "-o", "plan.json")
    assert far.stderr.endswith("Beside it: statistics.safetensors.\n")


def test_a_plan_without_statistics_names_the_commands(run: Run, here: Path, statistics: Path) -> None:
    """And they do it; `--samples 2` is what the cache holds already."""
    refused = run("plan", "mini", "-o", "plan.json")
    first, second = re.findall(r"hf-layerprune (p.*?)(?:;|$)", refused.stderr.strip())
    assert run(*shlex.split(first), "--samples", "2").returncode == run(*shlex.split(second)).returncode == 0
    assert (here / "plan.json").is_file()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("heal mini --set lr=1e-3", "Did you mean 'learning_rate'?"),
        ("heal mini --set rank=8", "Did you mean 'lora_rank'?"),
        ("heal mini --set num_train_epochs=2", "Did you mean 'epochs'?"),
        ("heal mini --set wd=0", "Did you mean 'weight_decay'?"),
        ("heal mini --lr 1e-3", "--set learning_rate="),
        ("heal mini --learning-rate=1e-3", "--set learning_rate="),
        ("convert mini --alpha 0.5", "--set alpha="),
        ("plan mini --alhpa 0.5 -o plan.json", "--set alpha="),
        ("plan mini --metod math -o plan.json", "--method"),
        ("evaluate mini --sample 3", "--samples"),
    ],
)
def test_misspelt_settings(run_here: Run, line: str, said: str) -> None:
    done = run_here(*line.split())
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
