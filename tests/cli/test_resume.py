"""A probe that is killed goes on where it was, to the very same bytes; the same seed gives the same bytes of everything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_layerprune import LayerPruner, LayerStatistics

Run = Any
IMAGES = 8


def start(environment: dict[str, str], here: Path, home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A probe of mini in a process of its own, with a cache of its own."""
    command = [sys.executable, "-m", "hf_layerprune", "probe", "mini", "--samples", str(IMAGES), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=here, env=environment | {"HF_HOME": str(home)}, stdout=pipe, stderr=pipe, text=True)


def wait_for_part(process: subprocess.Popen[str], home: Path, least: int) -> Path:
    """Wait until an unfinished statistics file holds at least so many pictures; the process must still run."""
    end = time.monotonic() + 900
    while time.monotonic() < end and process.poll() is None:
        for path in home.rglob("*.partial.safetensors"):
            if LayerStatistics.load(path).record.probe_set["done"] >= least:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no part was kept: {process.communicate()}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_killed_probe_resumes_to_the_same_bytes(environment: dict[str, str], here: Path, home: Path, run: Run) -> None:
    first = start(environment, here, home, "-o", "resumed.safetensors")
    part = wait_for_part(first, home, 3)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    done = LayerStatistics.load(part).record.probe_set["done"]
    assert done < 2 * IMAGES and not list(here.iterdir())

    # Count what is measured again, by plain hooks on every model in this process.
    calls: list[int] = []

    def count(module: nn.Module, args: object) -> None:
        if type(module).__name__ == "Qwen3VLModel":
            calls.append(1)

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pruner = LayerPruner.from_pretrained("mini", statistics_folder=part.parent)
        resumed = pruner.probe(samples=IMAGES)
        assert len(calls) == 2 * IMAGES - done
        assert not part.exists()
        whole = LayerPruner.from_pretrained("mini", statistics_folder=None).probe(samples=IMAGES)
    finally:
        handle.remove()
        torch.set_num_threads(threads)
    assert resumed.content == whole.content

    again = run("probe", "mini", "--samples", IMAGES, "-o", "resumed.safetensors", HF_HOME=str(home))
    assert again.returncode == 0 and "reused" in again.stdout
    assert (here / "resumed.safetensors").read_bytes() == whole.content


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_probe_says_how_to_go_on(
    environment: dict[str, str], here: Path, home: Path, number: signal.Signals, code: int
) -> None:
    process = start(environment, here, home, "-o", "out.safetensors")
    part = wait_for_part(process, home, 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code and not list(here.iterdir()) and part.exists()
    assert [path.name for path in part.parent.iterdir()] == [part.name]
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.strip() == "interrupted: what was probed is kept; run the same command again and it goes on from there."


def test_interrupted_without_a_cache(environment: dict[str, str], here: Path, home: Path) -> None:
    process = start(environment, here, home, "--no-cache", "-o", "out.safetensors")
    assert process.stdout is not None and process.stdout.readline().startswith("mini")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and not list(here.iterdir())
    assert err.strip() == "interrupted: nothing was written; run the same command again."


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(run: Run, here: Path, statistics: Path) -> None:
    assert run("probe", "mini", "--samples", "2", "--no-cache", "-o", "again.safetensors").returncode == 0
    assert (here / "again.safetensors").read_bytes() == statistics.read_bytes()
    for name in ("one", "two"):
        assert run("convert", "mini", "--samples", "2", "-o", name).returncode == 0
        assert run("convert", "mini", "--method", "random", "--set", "seed=3", "-o", f"random-{name}").returncode == 0
        assert run("plan", statistics, "--method", "interlace-pooled", "-o", f"{name}.json").returncode == 0
    for first, second in (("one", "two"), ("random-one", "random-two")):
        assert contents(here / first) == contents(here / second) and len(contents(here / first)) >= 10
    assert (here / "one.json").read_bytes() == (here / "two.json").read_bytes()
    assert run("convert", "mini", "--method", "random", "--set", "seed=4", "-o", "random-three").returncode == 0
    assert contents(here / "random-three")["model.safetensors"] != contents(here / "random-one")["model.safetensors"]
    assert os.path.getsize(here / "one" / "model.safetensors") < 7_000_000
