"""Errors of the operating system at every step of a rewrite: one clean line, an untouched source, and nothing left behind."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from independent import pruned, read_model, snapshot
from tiny_checkpoint import make_checkpoint, make_plan

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError


class Fault:
    """Stands for a function of `os`: fails once, at the given call, or from then on; counts its calls."""

    def __init__(self, function: Callable[..., Any], at: int | None, code: int, lasting: bool = False) -> None:
        self.function, self.at, self.code, self.lasting, self.calls = function, at, code, lasting, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.at is not None and (self.calls == self.at or (self.lasting and self.calls > self.at)):
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*args, **options)


def attempt(checkpoint: Checkpoint, output: Path, name: str, at: int | None, code: int = 0, lasting: bool = False, **options: Any) -> Fault:
    """Rewrite with a fault in os.NAME; the fault is gone when this returns."""
    fault = Fault(getattr(os, name), at, code, lasting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, fault)
        rewrite(checkpoint, make_plan(checkpoint, (1,)), output, **options)
    return fault


FAULTS = [
    ("open", errno.EACCES),
    ("open", errno.EMFILE),
    ("open", errno.EROFS),
    ("write", errno.ENOSPC),
    ("write", errno.EDQUOT),
    ("write", errno.EIO),
    ("pwrite", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("mkdir", errno.EROFS),
    ("rename", errno.EIO),
    ("rename", errno.EXDEV),
    ("pread", errno.EIO),
    ("preadv", errno.EIO),
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(("name", "code"), FAULTS, ids=lambda value: errno.errorcode.get(value, value) if isinstance(value, int) else value)
def test_a_fault_at_every_step(tmp_path: Path, name: str, code: int, lasting: bool) -> None:
    source, output = make_checkpoint(tmp_path / "source", layers=4, shards=2), tmp_path / "output"
    checkpoint = Checkpoint.open(source, "tiny")
    calls = attempt(checkpoint, tmp_path / "trial", name, None).calls
    shutil.rmtree(tmp_path / "trial")
    before, snapshot_of_source = snapshot(tmp_path), snapshot(source)
    assert calls > 0
    for at in sorted({1, 2, calls // 2, calls} & set(range(1, calls + 1))):
        try:
            attempt(checkpoint, output, name, at, code, lasting)
        except CheckpointError as error:
            assert os.strerror(code) in str(error) and "\n" not in str(error)
            # A cleaner who can open nothing cannot empty a folder: the hidden one then waits for the next run.
            left = {name for name in snapshot(tmp_path).keys() - before.keys() if not (lasting and name.startswith(".layerprune-"))}
            assert not left and snapshot(source) == snapshot_of_source, at
        else:  # a fault that does no harm: a folder's fsync, which some file systems cannot do, or a look at an empty lock
            assert verify(output, checkpoint).ok
            shutil.rmtree(output)
    rewrite(checkpoint, make_plan(checkpoint, (1,)), output)
    assert verify(output, checkpoint).ok and sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path, at: int) -> None:
    """The folder is replaced by two renames; whichever fails, the old one stays, and its lock and staging go."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match="Input/output error"):
        attempt(checkpoint, tmp_path / "output", "rename", at, errno.EIO, overwrite=True)
    assert {name: state[2] for name, state in snapshot(tmp_path).items()} == {name: state[2] for name, state in before.items()}


def test_space_is_checked_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    before = snapshot(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"output: [\d,]+ bytes are needed and 10 are free. Free some space"):
        rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_exception_of_any_kind(tmp_path: Path, error: type[BaseException]) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    before = snapshot(tmp_path)

    def stop(count: int) -> None:
        raise error

    with pytest.raises(error):
        rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output", progress=stop)
    assert snapshot(tmp_path) == before


SLOW_REWRITE = """
import sys, time
from pathlib import Path
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
print("started", flush=True)
checkpoint = Checkpoint.open(Path(sys.argv[1]), "tiny")
rewrite(checkpoint, PruningPlan.load(sys.argv[2]), Path(sys.argv[3]), overwrite=True, progress=lambda count: time.sleep(0.002))
"""


def heed_interrupts() -> None:
    """A shell starts background jobs with SIGINT ignored, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """A function that starts a slow rewrite of tmp_path/source to tmp_path/output in a process of its own."""
    source = make_checkpoint(tmp_path / "source")
    make_plan(Checkpoint.open(source, "tiny"), (2, 4)).save(tmp_path / "plan.json")
    arguments = [sys.executable, "-c", SLOW_REWRITE, str(source), str(tmp_path / "plan.json"), str(tmp_path / "output")]

    def run() -> subprocess.Popen[str]:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        return process

    return run


def test_killed_at_any_moment(tmp_path: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    """After SIGKILL there is no output or a whole one, the source is untouched, and the next run succeeds and cleans up."""
    rng, before = random.Random(0), snapshot(tmp_path / "source")
    for _ in range(6):
        process = start()
        time.sleep(rng.uniform(0, 0.35))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "output").exists() or verify(tmp_path / "output").ok
    process = start()
    assert process.communicate() and process.returncode == 0
    assert snapshot(tmp_path / "source") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "plan.json", "source"]
    assert read_model(tmp_path / "output") == pruned(read_model(tmp_path / "source"), [0, 1, 3, 5])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_ended_by_a_signal(tmp_path: Path, start: Callable[[], subprocess.Popen[str]], number: signal.Signals, code: int) -> None:
    process = start()
    while not list(tmp_path.glob(".layerprune-*.staging/*")):
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "source"]


def test_two_runs_into_one_output(tmp_path: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    first = start()
    while not list(tmp_path.glob(".layerprune-*.staging/*")):
        time.sleep(0.005)
    second = start()
    _, error = second.communicate()
    assert second.returncode == 1 and f"process {first.pid} on " in error and "is writing it. Wait for it" in error
    assert first.communicate() and first.returncode == 0
    assert verify(tmp_path / "output").ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "plan.json", "source"]
