"""Who holds an output: the kernel's lock, or identity where there is none."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hf_layerprune.checkpoint import lock
from hf_layerprune.checkpoint.lock import Owner, hold
from hf_layerprune.errors import CheckpointError


def test_held_in_the_same_process(tmp_path: Path) -> None:
    with hold(tmp_path / "x.lock", "out"):
        with pytest.raises(CheckpointError, match=f"out: process {os.getpid()} on .* is writing it"), hold(tmp_path / "x.lock", "out"):
            raise AssertionError
        assert (tmp_path / "x.lock").exists()
    assert not (tmp_path / "x.lock").exists()


HERE = Owner("here", "boot-1", os.getpid(), "123")
OWNERS = {
    "runs": (Owner("here", "boot-1", 1, lock._start(1)), False),
    "number reused by a later process": (Owner("here", "boot-1", 1, "1" + lock._start(1)), True),
    "no such process": (Owner("here", "boot-1", 2**22 + 1, "5"), True),
    "before the last boot": (Owner("here", "boot-0", 1, lock._start(1)), True),
    "another machine": (Owner("there", "boot-7", 1, "5"), False),
    "another container of this machine, dead": (Owner("there", "boot-1", 2**22 + 1, "5"), True),
    "another container, whose numbers say nothing here": (Owner("there", "boot-1", 2**22 + 1, "5", "pid:[7]"), False),
    "a system without /proc, dead": (Owner("here", "boot-1", 2**22 + 1, ""), True),
    "a system without /proc, alive": (Owner("here", "boot-1", 1, ""), False),
}


@pytest.mark.parametrize(("owner", "gone"), OWNERS.values(), ids=OWNERS)
def test_identity_decides(owner: Owner, gone: bool) -> None:
    assert owner.is_gone(HERE) is gone


def test_no_boot_identity_on_either_side() -> None:
    assert not Owner("there", "", 2**22 + 1, "").is_gone(replace(HERE, boot=""))
    assert Owner("here", "", 2**22 + 1, "").is_gone(replace(HERE, boot=""))


@pytest.mark.parametrize("kernel_locks", [True, False])
def test_a_lock_of_another_machine_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_locks: bool) -> None:
    if not kernel_locks:
        monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    path = tmp_path / "x.lock"
    path.write_text(json.dumps(asdict(Owner("there", "boot-7", 12, "5"))))
    with pytest.raises(CheckpointError, match=r"process 12 on 'there' is writing it. .*if you are sure that it is dead, remove .*x.lock"):
        hold(path, "out").__enter__()
    assert path.exists()


def no_locks(handle: int, operation: int) -> None:
    raise OSError(95, "Operation not supported")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity alone then decides: a living owner is respected, a dead one is not."""
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    path = tmp_path / "x.lock"
    with hold(path, "out"):
        with pytest.raises(CheckpointError, match="is writing it"):
            hold(path, "out").__enter__()
        assert path.exists()
    path.write_text(json.dumps(asdict(replace(Owner.current(), started="1"))))
    with hold(path, "out"):
        pass


def test_a_kernel_lock_that_is_free_says_that_a_container_died(tmp_path: Path) -> None:
    """Its process cannot be looked up from here, but its lock would still be held."""
    dead = replace(Owner.current(), namespace="pid:[7]")
    if not dead.boot:
        pytest.skip("this system has no boot id")
    (tmp_path / "x.lock").write_text(json.dumps(asdict(dead)))
    with hold(tmp_path / "x.lock", "out"):
        pass


def test_two_that_start_at_once_without_kernel_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the file before its maker wrote its name into it."""
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    read, both, ended = lock._read_owner, threading.Barrier(2), list[str]()

    def read_together(handle: int) -> Owner | None:
        owner = read(handle)
        both.wait(10)
        return owner

    monkeypatch.setattr(lock, "_read_owner", read_together)

    def start() -> None:
        try:
            with hold(tmp_path / "x.lock", "out"):
                ended.append("held")
                both.wait(10)  # until the other one has given up
        except CheckpointError as error:
            ended.append(str(error))
            both.wait(10)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(text[:26] for text in ended) == ["held", "out: another run is writin"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff"])
def test_a_lock_file_without_an_owner_is_free(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.lock").write_bytes(content)
    with hold(tmp_path / "x.lock", "out"):
        assert json.loads((tmp_path / "x.lock").read_text()) == asdict(Owner.current())


def test_a_lock_that_vanishes_while_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former holder removes the file between our open and our lock: the lock on the nameless file is worth nothing."""
    path, flock, calls = tmp_path / "x.lock", lock.fcntl.flock, []

    def vanish_once(handle: int, operation: int) -> None:
        if not calls:
            path.unlink()
        calls.append(handle)
        flock(handle, operation)

    monkeypatch.setattr(lock.fcntl, "flock", vanish_once)
    with hold(path, "out"):
        assert path.exists() and len(calls) == 2
