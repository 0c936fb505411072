"""What is kept between runs: whole or not at all, filled by one process while the others wait."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from hf_layerprune.data.store import Entry
from hf_layerprune.errors import ArtifactError, DataError


def slowly(folder: Path) -> None:
    with (folder.parent / "filled").open("a") as log:
        log.write(".")
    (folder / "one").write_text("1")
    time.sleep(0.3)
    (folder / "two").write_text("2")


def build(place: Path) -> None:
    folder = Entry(place, "result").build(slowly)
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


def test_one_process_fills_it_while_the_others_wait(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=build, args=(tmp_path / "store",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "store/filled").read_text() == "."


def test_what_an_interrupted_run_left_is_found_again(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise KeyboardInterrupt

    entry = Entry(tmp_path, "result")
    with pytest.raises(KeyboardInterrupt):
        entry.build(dies)
    assert not entry.path.exists()
    assert (entry.build(lambda folder: None) / "half").read_text() == "h"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    built = Entry(tmp_path, "result").build(lambda folder: None)
    assert built.is_dir() and [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_file_and_the_unfinished_one_before_it(tmp_path: Path) -> None:
    entry, same, other = (Entry.of(tmp_path / "store", ["model", n], prefix="statistics-", suffix=".bin") for n in (1, 1, 2))
    assert entry == same and entry.path != other.path and entry.path.name.startswith("statistics-")
    entry.write(b"half", partial=True)
    assert [path.name for path in entry.folder.iterdir()] == [entry.partial.name] and entry.partial.suffix == ".bin"
    entry.write(b"whole")
    assert [path.name for path in entry.folder.iterdir()] == [entry.path.name] and entry.path.read_bytes() == b"whole"


def test_a_place_that_takes_nothing(tmp_path: Path) -> None:
    """A file where the store should be, and a folder where a result should be."""
    (tmp_path / "file").write_bytes(b"")
    for act in (lambda entry: entry.build(slowly), lambda entry: entry.write(b""), lambda entry: entry.write(b"", partial=True)):
        with pytest.raises(DataError, match=r"file/result: cannot be kept there: .* Free space, or name another place with HF_HOME\."):
            act(Entry(tmp_path / "file", "result"))
    os.makedirs(tmp_path / "store/result")
    with pytest.raises(ArtifactError, match="store/result: writing failed"):
        Entry(tmp_path / "store", "result").write(b"")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["result"]
