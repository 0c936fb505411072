"""What a power cut may find: whether all of an output was on the disk before it got its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def check_durable(output: Path, work: Callable[[], object]) -> None:
    """Every file and folder of the output is fsynced after its last write and before it gets its name, the folder around it after that.

    Looks up the names of open files in /proc.
    """
    steps: list[tuple[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "fsync"):
            _record(patch, steps, os, name, lambda handle, *rest: os.readlink(f"/proc/self/fd/{handle}"))
        _record(patch, steps, os, "rename", lambda one, other: f"{one} {other}")
        work()
    [turn] = [at for at, (name, where) in enumerate(steps) if name == "rename" and where.endswith(f" {output}")]
    stage = steps[turn][1].split(" ")[0]
    for path in [output, *output.rglob("*")]:
        name = str(path).replace(str(output), stage, 1)
        done = [step for step, where in steps[:turn] if where == name]
        assert done[-1:] == ["fsync"], name
    assert ("fsync", str(output.parent)) in steps[turn:]


def _record(patch: pytest.MonkeyPatch, steps: list[tuple[str, str]], owner: Any, name: str, place: Callable[..., str]) -> None:
    function = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        where = place(*args)
        result = function(*args, **options)
        steps.append((name, where))
        return result

    patch.setattr(owner, name, call)
