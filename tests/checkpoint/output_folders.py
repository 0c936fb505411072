"""Folders that stand where an output is to go."""

from __future__ import annotations

from pathlib import Path


def ours(folder: Path, text: str = "{}") -> Path:
    (folder / "layerprune").mkdir(parents=True)
    (folder / "layerprune" / "manifest.json").write_text(text)
    return folder


def foreign(folder: Path) -> Path:
    folder.mkdir()
    (folder / "thesis.tex").touch()
    return folder
