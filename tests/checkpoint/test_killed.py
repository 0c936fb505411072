"""SIGKILL before 240 of a rewrite's steps on the file system, the last ones all: the old state or the new, and a re-run works."""

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

from hf_layerprune.checkpoint import staging
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.verify import verify

STEPS = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "unlink", "rmdir", "close")
LAST = 50  # steps that are all tried: making folders durable, putting the new one in place, removing the old one


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
    staging.exchange = patched(staging.exchange)  # type: ignore[attr-defined]
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


@pytest.mark.parametrize(
    ("replacing", "exchanging"), [(False, True), (True, True), (True, False)], ids=["new", "overwrite", "overwrite by two renames"]
)
def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any, replacing: bool, exchanging: bool) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and without effect where a process dies and the machine lives on
    if exchanging and replacing:
        request.getfixturevalue("exchanging")
    else:
        monkeypatch.setattr(staging, "exchange", lambda one, other: False)
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
    found = []
    for step in [*range(1, total - LAST, total // 30), *range(total - LAST, total + 1)]:
        prepare()
        assert os.WIFSIGNALED(run(step)[0])
        found.append(read_model(output) if output.exists() else None)
        assert found[-1] is None or verify(output).ok
        # Where neither folder stands there, the re-run puts the old one back first.
        rewrite(checkpoint, plan, output, overwrite=True)
        assert read_model(output) == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"], f"killed before step {step}"
    assert total > 200
    # At every instant a whole folder stands under the name, unless it is replaced by two renames: one instant of all.
    assert [model in ((old, new) if replacing else (None, new)) for model in found].count(False) == (0 if exchanging else 1)
    assert found[0] == (old if replacing else None) and found[-1] == new
    assert snapshot(checkpoint.path) == source
