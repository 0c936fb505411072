"""Models on the Hub that are looked at and planned for without a download of their weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hub.loopback import LoopbackHub
from tests.hub.models import SOURCE, WEIGHTS

Run = Any


def test_inspect(hub: LoopbackHub, run_here: Run, asked: Callable[[str], int]) -> None:
    done = run_here("inspect", SOURCE)
    assert done.returncode == 0, done.stderr
    local = run_here("inspect", "mini").stdout.splitlines()
    first, *table, last = done.stdout.splitlines()
    assert first.startswith(f"{SOURCE} @ {hub.repos[SOURCE].refs['main'][:7]} · qwen3_vl · 16 decoder layers") and table == local[1:]
    read = sum(sent for _, _, sent in hub.sent)
    assert last == f"(read 1 header and config.json over the network, {read / 1000:.1f} kB; no weights)"
    assert asked(WEIGHTS) < 400_000 < len(hub.repos[SOURCE].commits[hub.repos[SOURCE].refs["main"]][WEIGHTS]) / 10
    assert {path for path, _, _ in hub.sent} == {"config.json", WEIGHTS}
    hub.sent.clear()
    again = run_here("inspect", SOURCE, "--json")
    assert json.loads(again.stdout)["network_bytes"] == asked(WEIGHTS) == sum(sent for _, _, sent in hub.sent) > 0
    assert "(read 1 header over the network, " in run_here("inspect", SOURCE).stdout


def test_a_folder_is_read_on_the_disk(hub: LoopbackHub, run_here: Run) -> None:
    assert "over the network" not in run_here("inspect", "mini").stdout
    assert json.loads(run_here("inspect", "mini", "--json").stdout)["network_bytes"] == 0


def test_plan_of_a_model(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    commit = hub.repos[SOURCE].refs["main"]
    done = run_here("plan", SOURCE, "--layers", "5,9", "-o", "plan.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"next    hf-layerprune apply {SOURCE} --revision {commit} plan.json -o DIR"
    made = json.loads((here / "plan.json").read_text())
    run_here("plan", "mini", "--layers", "5,9", "-o", "local.json")
    local = json.loads((here / "local.json").read_text())
    assert made["source"] == {"id": SOURCE, "commit": commit, "fingerprint": local["source"]["fingerprint"]}
    assert {**made, "source": None} == {**local, "source": None}
    assert 0 < asked(WEIGHTS) < 400_000
    assert run_here("plan", SOURCE, "--method", "random", "-o", "random.json").returncode == 0
    refused = run_here("plan", SOURCE, "--method", "mixed", "-o", "mixed.json")
    assert refused.returncode != 0 and "statistics" in refused.stderr
