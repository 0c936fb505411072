"""Where an output may go, who holds it, and what a dead run leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from independent import snapshot

from hf_layerprune.checkpoint import lock, staging
from hf_layerprune.checkpoint.lock import Owner, hold
from hf_layerprune.checkpoint.staging import check_output, staged_folder
from hf_layerprune.errors import CheckpointError


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    (tmp_path / "origin" / "inner").mkdir(parents=True)
    return tmp_path / "origin"


def ours(folder: Path, text: str = "{}") -> Path:
    (folder / "layerprune").mkdir(parents=True)
    (folder / "layerprune" / "manifest.json").write_text(text)
    return folder


def foreign(folder: Path) -> Path:
    folder.mkdir()
    (folder / "thesis.tex").touch()
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], bool, str]] = {
    "a file": (lambda base: (base / "out").touch() or base / "out", True, "is a file. Choose another name"),
    "a non-empty folder": (lambda base: foreign(base / "out"), False, "is not empty and was not made by hf-layerprune"),
    "a non-empty folder, overwrite": (lambda base: foreign(base / "out"), True, "is not empty and was not made by hf-layerprune"),
    "ours, no overwrite": (lambda base: ours(base / "out"), False, "exists. Choose another name, or add --overwrite"),
    "the source": (lambda base: base / "origin", True, "is the source itself"),
    "the source, another way": (lambda base: base / "origin" / "inner" / ".." / "." , True, "not a name|is the source itself"),
    "inside the source": (lambda base: base / "origin" / "inner" / "out", True, "lies in the source"),
    "around the source": (lambda base: base, True, "holds the source"),
    "a link": (lambda base: (base / "out").symlink_to(ours(base / "real")) or base / "out", True, "is a link. Name the folder itself"),
    "a dangling link": (lambda base: (base / "out").symlink_to("absent") or base / "out", True, "is a link"),
    "under a link to it": (lambda base: (base / "door").symlink_to("origin") or base / "door" / "out", False, "lies in the source"),
    "no parent": (lambda base: base / "absent" / "out", False, "absent does not exist. Create it first"),
    "a mount point": (lambda base: Path("/proc"), True, "mount point"),
    "root": (lambda base: Path("/"), True, "not a name"),
    "newline": (lambda base: base / "a\nb", False, "not a name for a new folder"),
    "256 bytes": (lambda base: base / ("ä" * 128), False, "has 256 bytes, at most 255"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "overwrite", "message"), REFUSED.values(), ids=REFUSED)
def test_outputs_that_are_refused(origin: Path, tmp_path: Path, make: Callable[[Path], Path], overwrite: bool, message: str) -> None:
    output = make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        check_output(output, overwrite=overwrite, source=origin)
    with pytest.raises(CheckpointError, match=message), staged_folder(output, overwrite=overwrite, source=origin):
        raise AssertionError("the block must not run")
    assert snapshot(tmp_path) == before and "\n" not in str(caught.value)


def test_parent_that_cannot_be_written(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match=r"is not writable. Choose a folder that you may write to"):
        check_output(tmp_path / "out", overwrite=False, source=origin)


NAMES = ["out", "two words", "-rf", "--overwrite", "🪓", 'a"b', "'", "x" * 255, "ä" * 127, ".hidden", "a.b", "$(ls)", "CON"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("existing", ["absent", "empty", "ours"])
def test_names_that_work(origin: Path, tmp_path: Path, name: str, existing: str) -> None:
    output = tmp_path / name
    if existing == "empty":
        output.mkdir()
    elif existing == "ours":
        (ours(output) / "old").touch()
    with staged_folder(output, overwrite=existing == "ours", source=origin) as folder:
        assert folder.parent == output.parent
        (folder / "new").write_text("x")
        assert not (output / "new").exists()
    assert [path.name for path in output.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "origin"])


def test_a_relative_name(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with staged_folder(Path("out"), overwrite=False, source=Path("origin")) as folder:
        (folder / "new").touch()
    assert (tmp_path / "out" / "new").exists()
    with pytest.raises(CheckpointError, match="lies in the source"):
        check_output(Path("origin/x"), overwrite=False, source=Path("origin"))


def test_a_failed_block_keeps_what_was_there(origin: Path, tmp_path: Path) -> None:
    ours(tmp_path / "out", "old")
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", overwrite=True, source=origin) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert snapshot(tmp_path) == before


def hidden(output: Path, suffix: str) -> Path:
    """The hidden names beside an output, found by making one."""
    found: list[Path] = []
    with pytest.raises(RuntimeError), staged_folder(output, overwrite=True, source=output.parent / "origin") as folder:
        found.append(folder)
        raise RuntimeError
    return found[0].with_suffix(suffix)


def test_what_a_dead_run_left_is_cleaned_up(origin: Path, tmp_path: Path) -> None:
    stale = hidden(tmp_path / "out", ".staging")
    stale.mkdir()
    (stale / "half").touch()
    stale.with_suffix(".lock").write_text(json.dumps(asdict(replace(Owner.current(), pid=2**22 + 1))))
    with staged_folder(tmp_path / "out", overwrite=False, source=origin) as folder:
        assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin", "out"]


def test_a_run_that_died_between_the_two_renames(origin: Path, tmp_path: Path) -> None:
    """The replaced folder comes back, so that nothing is lost if the next run does not replace it."""
    replaced = ours(hidden(tmp_path / "out", ".replaced"), "old")
    with (
        pytest.raises(CheckpointError, match=r"exists. Choose another name"),
        staged_folder(tmp_path / "out", overwrite=False, source=origin),
    ):
        raise AssertionError
    assert (tmp_path / "out/layerprune/manifest.json").read_text() == "old" and not replaced.exists()


def test_a_run_that_died_after_the_two_renames(origin: Path, tmp_path: Path) -> None:
    replaced = ours(hidden(tmp_path / "out", ".replaced"), "old")
    ours(tmp_path / "out", "new")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", overwrite=True, source=origin):
        raise RuntimeError
    assert (tmp_path / "out/layerprune/manifest.json").read_text() == "new" and not replaced.exists()


# --- the lock -------------------------------------------------------------------------------------------------------------


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


APPEARED: dict[str, Callable[[Path], object]] = {
    "a folder": foreign,
    "a file": lambda output: output.write_text("mine"),
    "a link": lambda output: output.symlink_to("origin"),
    "ours": ours,
}


@pytest.mark.parametrize(("what", "overwrite"), [(what, overwrite) for what in APPEARED for overwrite in (False, True)][:-1])
def test_what_appears_while_an_output_is_written_stays(tmp_path: Path, origin: Path, what: str, overwrite: bool) -> None:
    """The last of the eight, ours and --overwrite, is what is to be replaced."""
    output, appeared = tmp_path / "out", {}
    with pytest.raises(CheckpointError, match="out"), staged_folder(output, overwrite=overwrite, source=origin) as folder:
        (folder / "new").touch()
        APPEARED[what](output)
        appeared = snapshot(tmp_path / "out")
    assert snapshot(output) == appeared and sorted(path.name for path in tmp_path.iterdir()) == ["origin", "out"]


def test_a_rename_onto_what_appears_at_the_last_moment(tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    rename = os.rename

    def late(one: Path, other: Path) -> None:
        foreign(output)
        rename(one, other)

    monkeypatch.setattr(os, "rename", late)
    message = "Something appeared there meanwhile, and is left as it is: choose another name"
    with pytest.raises(CheckpointError, match=message), staged_folder(output, overwrite=False, source=origin) as folder:
        (folder / "new").touch()
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]
