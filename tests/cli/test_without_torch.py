"""What needs no model runs where torch and transformers cannot be imported."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Run = Any


def test_the_poison_works(run_without_torch: Run, here: Path) -> None:
    """A command that does need the model fails: else the tests below would show nothing."""
    done = run_without_torch("convert", "mini", "--samples", "1", "--no-cache")
    assert done.returncode == 1 and "torch" in done.stderr and not list(here.iterdir())


def test_a_second_convert_by_another_method(run_without_torch: Run, statistics: Path, here: Path) -> None:
    done = run_without_torch("convert", "mini", "--samples", "2", "--method", "interlace", "--budget", "0.4")
    assert done.returncode == 0, done.stderr
    assert "reused an earlier probe: 18 passes over 2 math + 2 nonmath images" in done.stdout
    output = here / "mini-interlace-11L"
    plan = json.loads((output / "layerprune" / "plan.json").read_text())
    assert plan["strategy"] == "interlace" and len(plan["drop"]) == 5
    assert (output / "layerprune" / "statistics.safetensors").read_bytes() == statistics.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        "convert mini --layers 5,9 -o out",
        "convert mini --method random --num-layers 3 -o out",
        "convert mini --samples 2 --dry-run",
        "plan {statistics} --method mixed -o plan.json",
        "plan {statistics} --method cka --set activations=input -o plan.json",
        "plan mini --layers 3-5 -o plan.json",
        "plan {pruned} --method random --budget 25% -o plan.json",
        "probe mini --samples 2 -o again.safetensors",
        "verify {pruned} --source mini",
        "inspect mini",
        "inspect {pruned} --json",
        "strategies",
    ],
)
def test_commands(run_without_torch: Run, statistics: Path, pruned: Path, arguments: str) -> None:
    done: CompletedProcess[str] = run_without_torch(*arguments.format(statistics=statistics, pruned=pruned).split())
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout


def test_apply(run_without_torch: Run, statistics: Path, here: Path) -> None:
    run_without_torch("plan", statistics, "--num-layers", "2", "-o", "plan.json")
    done = run_without_torch("apply", "mini", "plan.json", "-o", "out", "--max-shard-size", "2MB")
    assert done.returncode == 0, done.stderr
    assert (here / "out" / "layerprune" / "plan.json").read_bytes() == (here / "plan.json").read_bytes()
    assert run_without_torch("verify", "out", "--source", "mini").returncode == 0
