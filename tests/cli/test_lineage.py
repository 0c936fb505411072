"""Pruned folders as sources: a plan from their statistics is one for their ancestor, a convert is one of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_layerprune import LayerStatistics, PruningPlan
from hf_layerprune.mini import model_path
from tests.checkpoint.independent import pruned as pruned_tensors
from tests.checkpoint.independent import read_model

Run = Any


def test_a_plan_from_a_pruned_folder_is_for_its_ancestor(run: Run, here: Path, statistics: Path) -> None:
    assert run("convert", "mini", "--samples", "2", "--budget", "0.1", "-o", "short").returncode == 0
    first = PruningPlan.load(here / "short/layerprune/plan.json")
    done = run("plan", "short", "--budget", "0.4", "-o", "plan.json")
    assert done.returncode == 0, done.stderr
    assert "statistics of mini · qwen3_vl · 16 decoder layers" in done.stdout
    assert "a plan for mini" in done.stdout and "hf-layerprune apply mini plan.json" in done.stdout
    plan = PruningPlan.load(here / "plan.json")
    assert plan.source == first.source and plan.source.id == "mini" and plan.layers == 16 and set(first.drop) < set(plan.drop)
    assert run("plan", statistics, "--budget", "0.4", "-o", "same.json").returncode == 0
    assert (here / "same.json").read_bytes() == (here / "plan.json").read_bytes()
    refused = run("apply", "short", "plan.json", "-o", "out")
    assert refused.returncode == 1 and "the plan is for mini" in refused.stderr and not (here / "out").exists()
    assert run("apply", "mini", "plan.json", "-o", "out").returncode == 0


def test_a_model_without_statistics_gets_a_plan_for_itself(run: Run, here: Path, pruned: Path) -> None:
    done = run("plan", pruned, "--layers", "4,8", "-o", "plan.json")
    assert done.returncode == 0 and "a plan for short" in done.stdout
    plan = PruningPlan.load(here / "plan.json")
    assert plan.source.id == "short" and plan.layers == 14
    assert plan.original_layers == (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15)
    assert "lineage the layers left are 0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14, 15 of the first ancestor" in done.stdout


def test_converting_a_pruned_folder_probes_it_anew(run: Run, here: Path, statistics: Path) -> None:
    """Its statistics are those of mini, so they are not taken; what is written says where each layer comes from."""
    assert run("convert", "mini", "--samples", "2", "-o", "first").returncode == 0
    one = PruningPlan.load(here / "first/layerprune/plan.json")
    done = run("convert", "first", "--samples", "1", "--num-layers", "2", "-o", "second")
    assert done.returncode == 0, done.stderr
    assert "first · qwen3_vl · 13 decoder layers" in done.stdout and "probed 9 passes over 1 math + 1 nonmath images" in done.stdout
    two = PruningPlan.load(here / "second/layerprune/plan.json")
    assert two.source.id == "first" and two.layers == 13 and two.original_layers == one.keep
    measured = LayerStatistics.load(here / "second/layerprune/statistics.safetensors")
    assert measured.model.source == two.source and measured.cosine_sum.shape[2] == 13
    kept = [one.keep[layer] for layer in two.keep]
    lineage = json.loads((here / "second/config.json").read_text())["layer_pruning"]
    assert lineage["original_layers"] == kept and lineage["original_depth"] == 16
    assert read_model(here / "second") == pruned_tensors(read_model(model_path()), kept)
    again = run("inspect", "second")
    assert "already pruned" in again.stdout and "11 decoder layers" in again.stdout
