"""Errors of the operating system at every step of a rewrite: one clean line, an untouched source, and nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.remedies import READING, WRITING
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import snapshot
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan


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
    """Rewrite with a fault in os.NAME, or that of another module; the fault is gone when this returns."""
    module, attribute = (io, name.removeprefix("io.")) if name.startswith("io.") else (os, name)
    fault = Fault(getattr(module, attribute), at, code, lasting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, attribute, fault)
        rewrite(checkpoint, make_plan(checkpoint, (1,)), output, **options)
    return fault


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
FAULTS = [
    *(("open", code) for code in (errno.EACCES, errno.EMFILE, *FULL)),
    *(("io.open", code) for code in (errno.EACCES, errno.EMFILE, errno.EIO)),  # where what was written is read back
    *(("write", code) for code in FULL),
    *(("fsync", code) for code in FULL),
    *(("mkdir", code) for code in (errno.EACCES, *FULL)),
    *(("rename", code) for code in (errno.EACCES, errno.EXDEV, *FULL)),
    ("preadv", errno.EIO),
    ("scandir", errno.EMFILE),
    ("listdir", errno.EMFILE),
]
REPLACING = [(name, code) for name in ("write", "fsync", "mkdir", "unlink", "rmdir") for code in (errno.ENOSPC, errno.EIO)]
AT_EVERY_CALL = {(name, code) for name in ("write", "fsync", "rename") for code in (errno.ENOSPC, errno.EIO)}
AT_EVERY_CALL |= {("open", errno.EMFILE), ("io.open", errno.EMFILE), ("mkdir", errno.ENOSPC)}
REMEDIES = {*WRITING.values(), *READING.values(), "Check the disk."}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one page. A process that does not die with its machine needs no fsync, which is slow."""
    monkeypatch.setattr(copying, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


NAMED = "it is there, whole, but making its name durable failed"


def in_words(value: Any) -> str:
    return errno.errorcode.get(value, str(value)) if isinstance(value, int) else str(value)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(("name", "code"), FAULTS, ids=in_words)
def test_a_fault_at_every_step(tmp_path: Path, name: str, code: int, lasting: bool) -> None:
    source, output = make_checkpoint(tmp_path / "source", layers=4, shards=2), tmp_path / "output"
    checkpoint = Checkpoint.open(source, "tiny")
    calls = attempt(checkpoint, tmp_path / "trial", name, None).calls
    shutil.rmtree(tmp_path / "trial")
    before, snapshot_of_source = snapshot(tmp_path), snapshot(source)
    assert calls > (40 if name == "write" else 0)
    every = (name, code) in AT_EVERY_CALL and not lasting
    for at in range(1, calls + 1) if every else sorted({1, 2, calls // 2, calls} & set(range(1, calls + 1))):
        try:
            attempt(checkpoint, output, name, at, code, lasting)
        except CheckpointError as error:
            check_message(str(error), code, output, source)
            if NAMED in str(error):  # the last step, after which nothing can be taken back
                assert at >= calls - 1 and verify(output, checkpoint).ok
                shutil.rmtree(output)
            # A cleaner who can open nothing cannot empty a folder: the hidden one then waits for the next run.
            left = {name for name in snapshot(tmp_path).keys() - before.keys() if not (lasting and name.startswith(".layerprune-"))}
            assert not left and snapshot(source) == snapshot_of_source, at
        else:  # a fault that does no harm: a folder that may not be opened, or a look at an empty lock
            assert name not in ("write", "rename", "fsync") and verify(output, checkpoint).ok
            shutil.rmtree(output)
    rewrite(checkpoint, make_plan(checkpoint, (1,)), output)
    assert verify(output, checkpoint).ok and sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]


def check_message(said: str, code: int, *places: Path) -> None:
    """One line that names a place that a person knows, what is wrong, and what to do."""
    assert os.strerror(code) in said and "\n" not in said and said.endswith(tuple(REMEDIES))
    assert said.startswith(tuple(f"{path}{end}" for path in places for end in (": ", "/"))) and ".layerprune-" not in said


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("name", "code"), REPLACING, ids=in_words)
def test_a_fault_at_every_step_of_a_replacement(tmp_path: Path, name: str, code: int) -> None:
    """The old folder stays as it is until the new one, whole, has its name."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source", layers=4, shards=2), "tiny")
    output = tmp_path / "output"
    rewrite(checkpoint, make_plan(checkpoint, (2,)), output)
    old = contents(output)
    calls = attempt(checkpoint, output, name, None, overwrite=True).calls
    new = contents(output)
    assert calls > 1 and new != old
    for at in range(1, calls + 1) if calls < 60 else (*range(1, calls, 15), calls - 1, calls):
        rewrite(checkpoint, make_plan(checkpoint, (2,)), output, overwrite=True, verify=False)
        try:
            attempt(checkpoint, output, name, at, code, overwrite=True)
        except CheckpointError as error:
            check_message(str(error), code, output)
            assert contents(output) == (new if NAMED in str(error) else old), at
        else:
            # The old folder or the lock stays for the next run, or the folder that was to be made is there.
            assert name in ("unlink", "rmdir", "mkdir") and contents(output) == new, at
        hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".layerprune-")]
        assert not hidden or name in ("unlink", "rmdir"), at
    rewrite(checkpoint, make_plan(checkpoint, (1,)), output, overwrite=True)
    assert contents(output) == new and sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]


def contents(folder: Path) -> dict[str, Any]:
    """Every name below a folder with its content's sha256, whatever its times."""
    return {name: state[2] for name, state in snapshot(folder).items()}


@pytest.mark.parametrize("at", [1, 2])
def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path, at: int) -> None:
    """A folder is replaced by two renames; whichever fails, the old one stays, and its lock and staging go."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="Input/output error"):
        attempt(checkpoint, tmp_path / "output", "rename", at, errno.EIO, overwrite=True)
    assert contents(tmp_path) == before
    attempt(checkpoint, tmp_path / "output", "rename", None, overwrite=True)
    assert contents(tmp_path) != before and verify(tmp_path / "output", checkpoint).ok


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
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.checkpoint.rewrite import rewrite
print("started", flush=True)
checkpoint = Checkpoint.open(Path(sys.argv[1]), "tiny")
def pause(count):
    time.sleep(0.03)
    while Path("wait").exists():
        time.sleep(0.005)
rewrite(checkpoint, PruningPlan.load(sys.argv[2]), Path(sys.argv[3]), WriteOptions(overwrite=True), progress=pause)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """A function that starts a slow rewrite of tmp_path/source to tmp_path/output in a process of its own.

    It waits in the midst of its first shard as long as there is a file tmp_path/wait.
    """
    source = make_checkpoint(tmp_path / "source")
    make_plan(Checkpoint.open(source, "tiny"), (2, 4)).save(tmp_path / "plan.json")
    arguments = [sys.executable, "-c", SLOW_REWRITE, str(source), str(tmp_path / "plan.json"), str(tmp_path / "output")]

    def run() -> subprocess.Popen[str]:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        return process

    return run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_ended_by_a_signal(tmp_path: Path, start: Callable[[], subprocess.Popen[str]], number: signal.Signals, code: int) -> None:
    (tmp_path / "wait").touch()
    process = start()
    while not list(tmp_path.glob(".layerprune-*.staging/*")):
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate()
    (tmp_path / "wait").unlink()
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "source"]


def test_two_runs_into_one_output(tmp_path: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    (tmp_path / "wait").touch()
    first = start()
    while not list(tmp_path.glob(".layerprune-*.staging/*")):
        time.sleep(0.005)
    second = start()
    _, error = second.communicate()
    assert second.returncode == 1 and f"process {first.pid} on " in error and "is writing it. Wait for it" in error
    (tmp_path / "wait").unlink()
    assert first.communicate() and first.returncode == 0
    assert verify(tmp_path / "output").ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "plan.json", "source"]
