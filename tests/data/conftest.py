from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for images."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder
