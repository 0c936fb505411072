"""Hypothesis without deadlines, and a way to install a strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any-machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any-machine")


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register a strategy the way an installed package does: a module and a .dist-info folder on the import path."""

    def install(package: str, name: str, code: str) -> None:
        module = package.replace("-", "_")
        site = tmp_path / package
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hf_layerprune.strategies]\n{name} = {module}:STRATEGY\n")
        monkeypatch.syspath_prepend(str(site))

    return install
