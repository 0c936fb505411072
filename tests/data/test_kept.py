"""A folder that is made once: whole or not at all, by one process while the others wait."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from hf_layerprune.data.kept import kept
from hf_layerprune.errors import DataError


def slowly(folder: Path) -> None:
    with (folder.parent / "made").open("a") as log:
        log.write(".")
    (folder / "one").write_text("1")
    time.sleep(0.3)
    (folder / "two").write_text("2")


def make(folder: Path) -> None:
    kept(folder, slowly)
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


def test_one_makes_it_while_the_others_wait(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=make, args=(tmp_path / "folder",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "made").read_text() == "."


def test_what_an_interrupted_one_left_is_found_again(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "folder", dies)
    assert not (tmp_path / "folder").exists()
    assert (kept(tmp_path / "folder", lambda folder: None) / "half").read_text() == "h"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(DataError, match="folder: cannot be kept there: No space left on device"):
        kept(tmp_path / "folder", lambda folder: None)
    assert not (tmp_path / "folder").exists()
