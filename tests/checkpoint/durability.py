"""What a power cut may find: whether all of an output was on the disk before it got its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import staging


def check_durable(output: Path, work: Callable[[], object]) -> str:
    """Every file and folder of the output is fsynced after its last write and before it gets its name, the folder around it after that.

    Returns the call that gave it its name. Looks up the names of open files in /proc.
    """
    steps: list[tuple[str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "fsync"):
            _record(patch, steps, os, name, lambda handle, *rest: os.readlink(f"/proc/self/fd/{handle}"))
        for owner, name in ((os, "rename"), (staging, "exchange")):
            _record(patch, steps, owner, name, lambda one, other: f"{one} {other}")
        work()
    [turn] = [at for at, (name, where) in enumerate(steps) if name in ("rename", "exchange") and where.endswith(f" {output}")]
    stage = steps[turn][1].split(" ")[0]
    for path in [output, *output.rglob("*")]:
        name = str(path).replace(str(output), stage, 1)
        done = [step for step, where in steps[:turn] if where == name]
        assert done[-1:] == ["fsync"], name
    assert ("fsync", str(output.parent)) in steps[turn:]
    return steps[turn][0]


def _record(patch: pytest.MonkeyPatch, steps: list[tuple[str, str]], owner: Any, name: str, place: Callable[..., str]) -> None:
    function = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        where = place(*args)
        result = function(*args, **options)
        steps.append((name, where))
        return result

    patch.setattr(owner, name, call)
