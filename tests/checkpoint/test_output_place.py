"""Where an output may go."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_layerprune.checkpoint import output_place
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import snapshot
from tests.checkpoint.output_folders import foreign, ours
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_plan

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
    "a file above it": (lambda base: (base / "there").touch() or base / "there" / "new" / "out", False, "there is not a folder"),
    "a dangling link above it": (lambda base: (base / "door").symlink_to("absent") or base / "door" / "out", False, "door is not a folder"),
    "in one of ours": (lambda base: (ours(base / "made") / "config.json").touch() or base / "made" / "out", True, "made, a model that"),
    "a mount point": (lambda base: Path("/proc"), True, "mount point"),
    "root": (lambda base: Path("/"), True, "not a name"),
    "newline": (lambda base: base / "a\nb", False, "not a name for a new folder"),
    "256 bytes": (lambda base: base / ("ä" * 128), False, "has 256 bytes, at most 255"),
    "256 bytes above it": (lambda base: base / ("ä" * 128) / "out", False, "has 256 bytes, at most 255"),
    "4,096 bytes in all": (lambda base: base.joinpath(*["x" * 250] * 20), False, "cannot look at it: File name too long"),
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


CARD = "---\nlicense: mit\n---\n<!-- hf-layerprune:begin title -->\n# A model\n<!-- hf-layerprune:end title -->\n"
THEIRS = {
    "notes": ("notes.txt", "to do"),
    "a file beside our records": ("layerprune/notes.txt", "to do"),
    "a folder's file": ("logs/run/log.txt", "1"),
    "another weight file": ("model-00009-of-00009.safetensors", "?"),
    "a card of their own": ("README.md", "---\nlicense: mit\n---\n# Mine\n"),
    "metadata alone": ("README.md", "---\nlicense: mit\n---\n"),
    "text beside our parts": ("README.md", CARD + "Come to our talk.\n"),
}


@pytest.mark.parametrize(("name", "text"), THEIRS.values(), ids=THEIRS)
def test_a_persons_file_is_never_deleted(opened: Checkpoint, tmp_path: Path, name: str, text: str) -> None:
    """In a folder of ours: it is named, and the run refused before any work."""
    output = tmp_path / "out"
    rewrite(opened, make_plan(opened, (2,)), output)
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text(text)
    before = snapshot(output)
    with pytest.raises(CheckpointError, match=rf"out holds files that hf-layerprune did not write, 1: '{name}', which --overwrite would"):
        rewrite(opened, make_plan(opened, (3,)), output, overwrite=True)
    assert snapshot(output) == before


def test_what_our_commands_put_into_a_folder_goes_with_it(opened: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "out"
    rewrite(opened, make_plan(opened, (2,)), output)
    (output / "README.md").write_text(CARD)
    for name in ("eval.json", "answers.jsonl", "layer-map.png", "license.json"):
        (output / "layerprune" / name).touch()
    rewrite(opened, make_plan(opened, (3,)), output, overwrite=True)
    assert not (output / "README.md").exists() and not (output / "layerprune" / "eval.json").exists()


def test_parent_that_cannot_be_written(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_place.os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match=r"is not writable. Choose a folder that you may write to"):
        check_output(tmp_path / "out", overwrite=False, source=origin)


def test_an_output_that_cannot_be_listed(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours(tmp_path / "out")

    def failing(path: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(CheckpointError, match=r"out: cannot look at it: Input/output error\. Check the disk\.$"):
        check_output(tmp_path / "out", overwrite=True, source=origin)


CLASHES = {"ORIGIN": "is the source itself", "ORIGIN/out": "lies in the source", ".": "holds the source"}


@pytest.mark.parametrize(("name", "message"), CLASHES.items())
def test_the_source_by_another_name(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    """As on a file system where case does not count: the folders are compared, not their names."""
    ours(tmp_path / "ORIGIN")
    monkeypatch.setattr(os.path, "samefile", lambda one, other: str(one).casefold() == str(other).casefold())
    with pytest.raises(CheckpointError, match=message):
        check_output(tmp_path / name, overwrite=True, source=origin)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
def test_the_source_by_another_mount(origin: Path, tmp_path: Path) -> None:
    """It is ours, so that --overwrite would replace it."""
    source, door = ours(tmp_path / "place" / "source"), tmp_path / "door"
    door.mkdir()
    if subprocess.run(["mount", "--bind", str(source.parent), str(door)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        for name, message in (("source", "is the source itself"), ("source/out", "lies in the source")):
            with pytest.raises(CheckpointError, match=message):
                check_output(door / name, overwrite=True, source=source)
        with pytest.raises(CheckpointError, match="holds the source"):
            check_output(ours(door / "around"), overwrite=True, source=tmp_path / "place" / "around" / "layerprune")
    finally:
        subprocess.run(["umount", str(door)], check=True)
