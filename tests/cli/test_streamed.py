"""Conversions of a model on the Hub shard by shard."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.mini import model_path
from tests.checkpoint.independent import pruned as pruned_tensors
from tests.checkpoint.independent import read_model
from tests.hub.loopback import LoopbackHub
from tests.hub.models import SOURCE, WEIGHTS, content, put
from tests.tiny_checkpoint import make_checkpoint

Run = Any


def test_stream(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    size = len(hub.repos[SOURCE].commits[hub.repos[SOURCE].refs["main"]][WEIGHTS])
    done = run_here("convert", SOURCE, "--layers", "5,9", "--stream", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "verified: " in done.stdout and done.stdout.splitlines()[-2] == "next    hf-layerprune evaluate out"
    keep = [layer for layer in range(16) if layer not in (5, 9)]
    assert read_model(here / "out") == pruned_tensors(read_model(model_path()), keep)
    assert size <= asked(WEIGHTS) < size + 400_000
    run_here("plan", SOURCE, "--layers", "5,9", "-o", "plan.json")
    assert run_here("apply", SOURCE, "plan.json", "--stream", "-o", "applied").returncode == 0
    assert content(here / "applied") == content(here / "out")
    assert run_here("apply", SOURCE, "out", "--stream", "-o", "again").returncode == 0
    assert sorted(path.name for path in here.iterdir()) == ["again", "applied", "out", "plan.json"]


def test_a_dry_run_reads_no_weights(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    for option in ((), ("--stream",)):
        done = run_here("convert", SOURCE, "--layers", "5,9", "--dry-run", *option)
        assert done.returncode == 0 and "removed 2 of 16 layers: 5, 9" in done.stdout and done.stdout.endswith("nothing was written\n")
    assert 0 < asked(WEIGHTS) < 800_000 and not list(here.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_stream_goes_on(
    hub: LoopbackHub, here: Path, tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    """Interrupted when it asks for the whole of the second shard."""
    files = content(make_checkpoint(tmp_path / "source", tied=False, shards=3))
    put(hub, "me/three", files)
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "hf_layerprune", "convert", "me/three", "--layers", "3", "--stream", "-o", "out"]
    second, asked = "model-00002-of-00003.safetensors", Counter[str]()
    process = subprocess.Popen(command, cwd=here, env=environment | network, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def whole(path: str) -> tuple[str, str]:
        return "", f"bytes=0-{len(files[path]) - 1}"

    def interrupt(path: str, ranges: str) -> None:
        asked[path] += ranges in whole(path)
        if path == second and asked[path] == 2:  # the first time for its header, for it is small
            process.send_signal(number)
            process.wait()

    hub.repos["me/three"].on_file = interrupt
    _, said = process.communicate(timeout=300)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert said.endswith("interrupted: finished shards are kept; run the same command again and it goes on from there.\n")
    (staging,) = here.glob(".layerprune-*.staging")
    assert [path.name for path in staging.glob("*.safetensors")] == ["model-00001-of-00003.safetensors"] and not (here / "out").exists()
    asked.clear()
    hub.repos["me/three"].on_file = lambda path, ranges: asked.update([path] if ranges in whole(path) else [])
    done = subprocess.run(command, cwd=here, env=environment | network, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [asked[f"model-0000{shard}-of-00003.safetensors"] for shard in (1, 2, 3)] == [1, 2, 2]  # once for each header
    assert read_model(here / "out") == pruned_tensors(read_model(tmp_path / "source"), [0, 1, 2, 4, 5])
    assert [path.name for path in here.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", SOURCE, "--stream"), "--stream keeps no weights, and method 'mixed' must run the model"),
        (("convert", SOURCE, "--stream", "--layers", "5", "--max-shard-size", "1MB"), "leave out --max-shard-size"),
        (("convert", "mini", "--stream", "--layers", "5"), "--stream is for a Hub id, and mini is on this disk"),
        (("convert", SOURCE, "--stream", "--layers", "99"), "99"),
    ],
)
def test_stream_refused(hub: LoopbackHub, here: Path, run_here: Run, arguments: tuple[str, ...], message: str) -> None:
    hub.sent.clear()
    done = run_here(*arguments, "-o", "out")
    assert done.returncode == 2 and message in done.stderr and not list(here.iterdir())
