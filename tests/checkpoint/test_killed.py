"""SIGKILL before 200 of a rewrite's steps on the file system, the last ones all: the old state or the new, and a re-run works."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from independent import pruned, read_model, snapshot
from tiny_checkpoint import make_checkpoint, make_plan

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.verify import verify

STEPS = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "unlink", "rmdir", "close")


def die_at(step: int, report: int | None = None) -> Callable[[], int]:
    """Patch this process so that it kills itself before the `step`-th call; returns a function that counts the calls so far."""
    calls = 0

    def patched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, patched(getattr(os, name)))
    return lambda: calls


def in_a_fork(work: Callable[[], int]) -> tuple[int, int]:
    """Run `work` in a copy of this process; returns its exit status as `waitpid` gives it, and the number it returned, or 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(work()).encode())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writing)
    answer = os.read(reading, 20)
    os.close(reading)
    return status, int(answer or b"0")


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwrite"])
def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and without effect where a process dies and the machine lives on
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source", layers=4, shards=2), "tiny")
    old_plan, plan = make_plan(checkpoint, (2,)), make_plan(checkpoint, (1,))
    old, new = (pruned(read_model(checkpoint.path), keep) for keep in ([0, 1, 3], [0, 2, 3]))
    source, output = snapshot(checkpoint.path), tmp_path / "output"

    def run(step: int) -> tuple[int, int]:
        def work() -> int:
            count = die_at(step)
            rewrite(checkpoint, plan, output, overwrite=replacing)
            return count()

        return in_a_fork(work)

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        if replacing:
            rewrite(checkpoint, old_plan, output)

    prepare()
    _, total = run(0)
    for step in [*range(1, total - 20, total // 80), *range(total - 20, total + 1)]:
        prepare()
        assert os.WIFSIGNALED(run(step)[0])
        # Between the two renames that replace a folder neither stands there; the re-run below puts the old one back first.
        if output.exists():
            assert verify(output).ok
            assert read_model(output) in ((old, new) if replacing else (new,))
        rewrite(checkpoint, plan, output, overwrite=True)
        assert read_model(output) == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"], f"killed before step {step}"
    assert total > 200
    assert snapshot(checkpoint.path) == source
