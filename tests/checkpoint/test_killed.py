"""SIGKILL before a rewrite's steps on the file system: the old state or the new, and a re-run works.

A step is a call that changes something; one that only reads finds the disk as the step before left it. Blocks are of one page, so
that most steps write a full block, past the page cache where that is granted, from memory that is used again. A new folder is killed
before each of its steps, more than 200; one that replaces another before 30 of them and each of the last 50.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from independent import pruned, read_model, snapshot
from poor_file_system import grants_direct
from tiny_checkpoint import make_checkpoint, make_plan

from hf_layerprune.checkpoint import copying, staging
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.verify import verify

STEPS = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "unlink", "rmdir", "close")
LAST = 50  # steps that are all tried: making folders durable, putting the new one in place, removing the old one
SAMPLED = 30  # of the steps before these, where not every one is tried


def changes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is a step: all are, but for the opening and closing of what is only read."""
    if name == "open":
        return bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return name != "close" or fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def die_at(step: int) -> Callable[[], tuple[int, int]]:
    """Patch this process so that it kills itself before the `step`-th call; returns a function that counts the calls so far, and
    those of them that wrote past the page cache."""
    calls = direct = 0

    def patched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls, direct
            if changes(name, args):  # which other threads do not, so that no call is lost
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            direct += name == "write" and bool(fcntl.fcntl(args[0], fcntl.F_GETFL) & copying.DIRECT)
            return function(*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, patched(name, getattr(os, name)))
    staging.exchange = patched("exchange", staging.exchange)  # type: ignore[attr-defined]
    return lambda: (calls, direct)


def in_a_fork(work: Callable[[], tuple[int, int]]) -> tuple[int, list[int]]:
    """Run `work` in a copy of this process; returns its exit status as `waitpid` gives it, and the numbers it returned, if any."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, "{} {}".format(*work()).encode())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writing)
    answer = os.read(reading, 40)
    os.close(reading)
    return status, [int(number) for number in answer.split()]


@pytest.mark.parametrize(
    ("replacing", "exchanging"), [(False, True), (True, True), (True, False)], ids=["new", "overwrite", "overwrite by two renames"]
)
def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any, replacing: bool, exchanging: bool) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and without effect where a process dies and the machine lives on
    if exchanging and replacing:
        request.getfixturevalue("exchanging")
    else:
        monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    checkpoint = Checkpoint.open(
        make_checkpoint(tmp_path / "source", layers=4, shards=2, text_config__vocab_size=96 if replacing else 8000), "tiny"
    )
    old_plan, plan = make_plan(checkpoint, (2,)), make_plan(checkpoint, (1,))
    old, new = (pruned(read_model(checkpoint.path), keep) for keep in ([0, 1, 3], [0, 2, 3]))
    source, output = snapshot(checkpoint.path), tmp_path / "output"
    granted = grants_direct(tmp_path)
    (tmp_path / "probe").unlink()

    def run(step: int) -> tuple[int, list[int]]:
        def work() -> tuple[int, int]:
            copying.BLOCK_BYTES = 4096
            count = die_at(step)
            rewrite(checkpoint, plan, output, overwrite=replacing)
            return count()

        return in_a_fork(work)

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        if replacing:
            rewrite(checkpoint, old_plan, output)

    prepare()
    _, [total, direct] = run(0)
    assert direct > (30 if replacing else 100) if granted else direct == 0
    found = []
    first = range(1, total - LAST, (total // SAMPLED) if replacing else 1)
    for step in [*first, *range(total - LAST, total + 1)]:
        prepare()
        assert os.WIFSIGNALED(run(step)[0]), f"step {step} of {total}"
        found.append(read_model(output) if output.exists() else None)
        assert found[-1] is None or verify(output).ok
        # Where neither folder stands there, the re-run puts the old one back first.
        rewrite(checkpoint, plan, output, overwrite=True)
        assert read_model(output) == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"], f"killed before step {step}"
    assert len(found) > (70 if replacing else 200)
    # At every instant a whole folder stands under the name, unless it is replaced by two renames: one instant of all.
    assert [model in ((old, new) if replacing else (None, new)) for model in found].count(False) == (0 if exchanging else 1)
    assert found[0] == (old if replacing else None) and found[-1] == new
    assert snapshot(checkpoint.path) == source
