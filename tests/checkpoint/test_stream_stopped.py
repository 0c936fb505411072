"""A stream that is killed or failed at each of its steps: the whole output or none, no finished shard twice, nothing left behind."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_layerprune.errors import CheckpointError
from tests.checkpoint.durability import check_durable
from tests.checkpoint.independent import pruned, read_model
from tests.checkpoint.killing import die_at, in_a_fork
from tests.checkpoint.streaming import DROP, fetched_whole, left, open_to_stream, publish_anew
from tests.checkpoint.test_faults import Fault
from tests.hub.loopback import LoopbackHub
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

KEEP = [0, 1, 4, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in four shards. Read only."""
    return make_checkpoint(tmp_path_factory.mktemp("streamed") / "source", tied=False, shards=4)


@pytest.fixture
def streamed(own_hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], object]]:
    """A function that streams the checkpoint to an output, whose headers are read once for all."""
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.FIRST_BYTES", 1024)
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.SAMPLE_BYTES", 0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # without effect where a process dies and the machine lives on
    name, _ = publish_anew(own_hub, folder)
    checkpoint, repo = open_to_stream(name)
    assert repo
    plan = make_plan(checkpoint, DROP)
    yield lambda output: rewrite(checkpoint, plan, output)


def finished(place: Path) -> int:
    """How many shards a stream that ended early has finished: those whose records are whole."""
    return len([path for path in place.glob(".layerprune-*.staging/.fetched/*.json") if path.read_bytes().endswith(b"}\n")])


def test_killed(own_hub: LoopbackHub, folder: Path, tmp_path: Path, streamed: Callable[[Path], object]) -> None:
    from huggingface_hub import close_session

    new = pruned(read_model(folder), KEEP)

    def run(place: Path, step: int) -> tuple[int, list[int]]:
        def work() -> int:
            close_session()  # its connections are the parent's too
            count = die_at(step)
            streamed(place / "output")
            return count()

        place.mkdir()
        return in_a_fork(work)

    _, [total] = run(tmp_path / "whole", 0)
    assert total > 60
    kept = set()
    for step in range(1, total + 1):
        place = tmp_path / str(step)
        assert os.WIFSIGNALED(run(place, step)[0]), f"step {step} of {total}"
        assert not (place / "output").exists() or read_model(place / "output") == new
        done, there = finished(place), (place / "output").exists()
        own_hub.sent.clear()
        if not there:
            streamed(place / "output")
            assert len(fetched_whole(own_hub, folder)) <= 4 - done
            kept.add(done)
        assert read_model(place / "output") == new and (there or left(place) == ["output"]), f"killed before step {step}"
    assert kept >= {0, 1, 2, 3, 4}


@pytest.mark.skipif(sys.platform != "linux", reason="looks up the names of open files in /proc")
def test_durable_before_it_gets_its_name(tmp_path: Path, streamed: Callable[[Path], object]) -> None:
    check_durable(tmp_path / "output", lambda: streamed(tmp_path / "output"))


CALLS = ("write", "fsync", "mkdir", "rename", "unlink", "open")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_failed(folder: Path, tmp_path: Path, streamed: Callable[[Path], object], name: str, code: int) -> None:
    new = pruned(read_model(folder), KEEP)

    def attempt(place: Path, at: int | None) -> int:
        fault = Fault(getattr(os, name), at, code)
        place.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, name, fault)
            streamed(place / "output")
        return fault.calls

    total = attempt(tmp_path / "whole", None)
    assert total > (0 if name == "rename" else 3)
    for at in range(1, total + 1, 9 if name == "open" else 1):
        place = tmp_path / str(at)
        try:
            attempt(place, at)
        except CheckpointError as error:
            said = str(error)
            assert os.strerror(code) in said and "\n" not in said and ".layerprune-" not in said and ".fetched" not in said
            assert said.startswith((f"{place / 'output'}: ", f"{place / 'output'}/", "you/model-")) or "/models--you--model-" in said
        if not (place / "output").exists():
            streamed(place / "output")
        assert read_model(place / "output") == new and (left(place) == ["output"] or name in ("unlink", "open")), at
