"""File systems that lack something, for the tests of what is written to them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import copying


def refusing(code: int) -> Callable[..., Any]:
    """A function of the system that always fails with this error."""

    def call(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def refuse_if_direct(monkeypatch: pytest.MonkeyPatch, code: int) -> list[int]:
    """From now on the flag of direct reading and writing is taken and then every such read and write fails; the handles that it did for."""
    handles: list[int] = []

    def unless_direct(function: Any) -> Any:
        def call(handle: int, *rest: Any) -> Any:
            if fcntl.fcntl(handle, fcntl.F_GETFL) & copying.DIRECT:
                handles.append(handle)
                refusing(code)()
            return function(handle, *rest)

        return call

    for name in ("write", "preadv"):
        monkeypatch.setattr(os, name, unless_direct(getattr(os, name)))
    return handles


def grants_direct(folder: Path) -> bool:
    """Whether files in this folder can be written past the page cache."""
    with (folder / "probe").open("wb") as file:
        return copying._past_cache(file.fileno(), True)
