"""An output appears whole or not at all, and what a dead run leaves is cleaned up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.staging import hidden_beside, staged_folder
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import snapshot
from tests.checkpoint.output_folders import foreign, ours

NAMES = ["out", "two words", "-rf", "--overwrite", "🪓", 'a"b', "'", "x" * 255, "ä" * 127, ".hidden", "a.b", "$(ls)", "CON"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("existing", ["absent", "empty", "ours"])
def test_names_that_work(origin: Path, tmp_path: Path, name: str, existing: str) -> None:
    output = tmp_path / name
    if existing == "empty":
        output.mkdir()
    elif existing == "ours":
        (ours(output) / "layerprune" / "plan.json").touch()
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
    stale.with_suffix(".lock").write_text("process 4194305 on 'here'")
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


@pytest.mark.parametrize("code", [errno.EEXIST, errno.ENOTEMPTY])
@pytest.mark.parametrize("later", [False, True])
def test_a_file_system_that_renames_onto_no_folder(
    tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch, code: int, later: bool
) -> None:
    """The empty folder makes way, and comes back where that was in vain."""
    output, rename = tmp_path / "out", os.rename
    output.mkdir()

    def poor(one: Path, other: Path) -> None:
        if os.path.isdir(other) or later:
            raise OSError(code, os.strerror(code))
        rename(one, other)

    monkeypatch.setattr(os, "rename", poor)
    try:
        with staged_folder(output, overwrite=False, source=origin) as folder:
            (folder / "new").touch()
    except CheckpointError:
        assert later
    assert [path.name for path in output.iterdir()] == ([] if later else ["new"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin", "out"]


def test_a_link_in_place_of_what_an_earlier_run_left(tmp_path: Path, origin: Path) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    hidden_beside(output, "staging").symlink_to(elsewhere)
    hidden_beside(output, "resume").write_text("same")
    with staged_folder(output, overwrite=False, source=origin, identity="same") as folder:
        (folder / "new").touch()
    assert not output.is_symlink() and (output / "new").exists() and not [*elsewhere.iterdir()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "origin", "out"]
