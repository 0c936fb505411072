"""DeepSpeed ZeRO-3 for real, on two processes without a GPU: the same curve as one process, killed, resumed, merged, loaded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from hf_layerprune.artifacts.healing_record import Engine, HealingRecord
from hf_layerprune.checkpoint.verify import verify

YAML = Path(__file__).parents[2] / "examples" / "zero3_cpu.yaml"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(YAML), "-m", "hf_layerprune"]
SETTINGS = "--set batch_size=8 --set micro_batch_size=2 --set learning_rate=1e-3 --set precision=fp32 --set lora_dropout=0"
HEAL = f"--recipe domain-aware --data mini,count=176 --save-steps 4 --device cpu {SETTINGS}".split()  # 22 steps
SHORT = [argument.replace("176", "64") for argument in HEAL]  # 8 steps


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def kill_when(child: subprocess.Popen[str], state: str, place: Path) -> None:
    """SIGKILL for the launcher and its processes, as soon as a state stands there."""
    limit = time.monotonic() + 900
    while not list(place.glob(f".layerprune-*.healing/{state}")):
        assert child.poll() is None and time.monotonic() < limit, child.communicate()
        time.sleep(0.02)
    for process in [*ranks_of(child), child.pid]:  # the launcher gives each rank a session of its own
        os.kill(process, signal.SIGKILL)
    child.communicate()


def ranks_of(child: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=False).stdout.split()
    return sorted(map(int, found))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero3")


@pytest.fixture(scope="module")
def sharded(pruned_mini: Path, place: Path) -> Path:
    """Healed by two ZeRO-3 processes that were killed in mid-run and started again."""
    command = [*LAUNCH, "heal", str(pruned_mini), *HEAL, "-o", "sharded"]
    options = {"cwd": place, "env": environment(), "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    kill_when(child, "step-00000004", place)
    assert not (place / "sharded").exists()
    again = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    assert again.returncode == 0, again.stderr
    assert re.search(r"going on with an interrupted healing: \d+ of 22 steps are done", again.stderr)
    return place / "sharded"


def test_two_processes_shared_the_model_and_the_result_loads(sharded: Path, pruned_mini: Path) -> None:
    record = HealingRecord.load(sharded / "layerprune" / "healing.json")
    assert record.engine == Engine(2, "cpu", 3) and record.resumed
    _, info = AutoModelForImageTextToText.from_pretrained(sharded, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert verify(sharded).ok
    assert (sharded / "config.json").read_bytes() == (pruned_mini / "config.json").read_bytes()


def test_the_curve_is_that_of_one_process(sharded: Path, pruned_mini: Path, place: Path) -> None:
    command = [sys.executable, "-m", "hf_layerprune", "heal", str(pruned_mini), *HEAL, "-o", "alone", "-q"]
    subprocess.run(command, check=True, cwd=place, env=environment())
    one, two = (HealingRecord.load(place / name / "layerprune" / "healing.json") for name in ("alone", "sharded"))
    assert one.steps == two.steps == 22 and one.engine.processes == 1
    assert one.curve["tokens"] == two.curve["tokens"]
    for alone, shared in zip(one.curve["loss"][:20], two.curve["loss"][:20], strict=True):
        assert shared == pytest.approx(alone, rel=0.01)
    different = sum(after != pytest.approx(before, rel=0.05) for before, after in pairwise(one.curve["loss"][:20]))
    assert different >= 12  # batches are not alike, so another order would show


def test_a_rank_that_dies(pruned_mini: Path, tmp_path: Path) -> None:
    place = tmp_path
    command = [*LAUNCH, "heal", str(pruned_mini), *SHORT, "--seed", "1", "-o", "dying"]
    options = {"cwd": place, "env": environment(), "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    while not list(place.glob(".layerprune-*.healing/step-00000004")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    os.kill(ranks_of(child)[1], signal.SIGKILL)
    _, errors = child.communicate(timeout=600)
    assert child.returncode != 0
    assert re.search(r"rank\s*:\s*1 \(local_rank: 1\)", errors) and "Signal 9 (SIGKILL)" in errors
    again = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    assert again.returncode == 0 and "going on with an interrupted healing" in again.stderr


def test_resuming_needs_as_many_processes(pruned_mini: Path, tmp_path: Path) -> None:
    place = tmp_path
    command = [sys.executable, "-m", "hf_layerprune", "heal", str(pruned_mini), *SHORT, "--seed", "2", "-o", "alone2"]
    child = subprocess.Popen([*command, "-q"], cwd=place, env=environment(), start_new_session=True, text=True)
    kill_when(child, "step-00000004", place)
    launched = subprocess.run([*LAUNCH, *command[3:]], cwd=place, env=environment(), text=True, capture_output=True, check=False)
    assert launched.returncode != 0
    assert re.search(r"error: .*step-\d+: saved by 1 processes, but now there are 2\. Launch as many again\.", launched.stderr)
