"""Ctrl-C at every line of a rewrite: it stays an interrupt, the source is untouched, and what is there is nothing or all."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hf_layerprune
from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from tests.checkpoint.independent import snapshot
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

PACKAGE = str(Path(hf_layerprune.__file__).parent)
Place = tuple[str, int]  # a file and a line of it


def traced(work: Callable[[], object], seen: Callable[[Place], None], within: str = PACKAGE) -> None:
    """Run `work` while `seen` is told of every line of the files whose names begin so, before this thread runs it."""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(within):
            return None
        if event == "line":
            seen((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that the threads have work; a process that dies without its machine needs no fsync."""
    monkeypatch.setattr(copying, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def interrupting(place: Place) -> tuple[Callable[[Place], None], list[Place]]:
    """Ctrl-C the first time that a line is about to run; and a list that is empty once that was so."""
    waiting = [place]

    def seen(now: Place) -> None:
        if waiting and now == waiting[0]:
            waiting.clear()
            raise KeyboardInterrupt

    return seen, waiting


def contents(folder: Path) -> dict[str, Any] | None:
    """What is in a folder, whenever it was written."""
    return {name: entry[2] for name, entry in snapshot(folder).items()} if folder.exists() else None


def open_handles() -> set[int]:
    with os.scandir("/proc/self/fd") as entries:  # its own handle is among them, and closed by now
        found = {int(entry.name) for entry in entries}
    return {handle for handle in found if os.path.exists(f"/proc/self/fd/{handle}")}


def end_process(handles: set[int]) -> None:
    """What the end of the interrupted process would do: close what it opened, and forget what it asked for at SIGTERM."""
    gc.collect()  # a lock that the interrupt left behind closes its own
    for handle in open_handles() - handles:
        os.close(handle)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_interrupted_at_every_line(tmp_path: Path, small: None) -> None:
    """Whether the output is new, or replaces another. Only where cleaning up is interrupted does something stay, hidden, and the
    next run removes it."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    source, here, old_folder = snapshot(checkpoint.path), tmp_path / "here", tmp_path / "old"
    here.mkdir()

    def write() -> None:
        rewrite(checkpoint, make_plan(checkpoint, (1, 3)), here / "out", overwrite=True)

    def prepare(overwrite: bool) -> None:
        shutil.rmtree(here / "out", ignore_errors=True)
        if overwrite:
            shutil.copytree(old_folder, here / "out")

    rewrite(checkpoint, make_plan(checkpoint, (2,)), old_folder)
    old = contents(old_folder)
    places: dict[bool, dict[Place, None]] = {False: {}, True: {}}
    for overwrite, lines in places.items():
        prepare(overwrite)
        traced(write, lambda place, lines=lines: lines.setdefault(place))  # type: ignore[misc]
    whole = contents(here / "out")
    new, replacing = places.values()
    todo = [(place, False) for place in new]
    todo += [(place, True) for place in replacing if place not in new or Path(place[0]).stem == "staging"]
    assert len(todo) > 400
    appeared = cut_short = passed_by = 0
    gc.freeze()  # what is there by now need not be looked through after each of hundreds of runs
    for place, overwrite in todo:
        prepare(overwrite)
        handles = open_handles()
        seen, waiting = interrupting(place)
        interrupted = False
        try:
            traced(write, seen, within=place[0])
        except KeyboardInterrupt:
            interrupted = True
        assert interrupted != bool(waiting), place  # what was read from the cache before may come from the disk now, by other lines
        passed_by += bool(waiting)
        end_process(handles)
        found = contents(here / "out")
        assert found in (old if overwrite else None, whole), place
        appeared += found == whole
        if left := [path.name for path in here.iterdir() if path.name != "out"]:
            cut_short += 1
            assert all(name.startswith(".layerprune-") for name in left), (place, left)
            prepare(overwrite)
            write()
            assert contents(here / "out") == whole and os.listdir(here) == ["out"], place
    assert 0 < appeared - passed_by < 60 and cut_short < 60 and passed_by < 20
    assert snapshot(checkpoint.path) == source
