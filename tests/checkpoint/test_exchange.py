"""Two folders change names in one step, or nothing happens and the caller is told."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_layerprune.checkpoint.exchange import exchange


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("ours", "ö\udcff"):  # a name may hold any bytes
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_bytes(name.encode("utf-8", "surrogateescape"))
    return tmp_path / "ours", tmp_path / "ö\udcff"


@pytest.mark.usefixtures("exchanging")
def test_names_are_exchanged(folders: tuple[Path, Path]) -> None:
    assert exchange(*folders)
    assert [(folder / "who").read_bytes() for folder in folders] == ["ö".encode() + b"\xff", b"ours"]


@pytest.mark.usefixtures("exchanging")
def test_a_missing_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        exchange(folders[0], tmp_path / "absent")


@pytest.mark.parametrize("where", ["another system", "an older C library"])
def test_where_there_is_none(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: SimpleNamespace())
    assert not exchange(*folders)
    assert (folders[0] / "who").read_bytes() == b"ours"
