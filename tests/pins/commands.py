"""Run the command line in this process, and tell what two values or folders differ in."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.cli.main import main

TOLERANCE = 1e-6
CONVERT = ("convert", "source", "--layers", "3", "-o", "out")  # of conftest's `source`


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON object; the command must have said nothing else on stdout."""
        assert self.out.count("\n") == 1, self
        return json.loads(self.out)


Pinned = Callable[[str, Any], None]  # as conftest's `pinned` gives it


def run(here: Path, *arguments: object) -> Done:
    """`hf-layerprune ARGUMENTS` in a folder, in this process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for handler in logging.getLogger("huggingface_hub").handlers:  # made under an earlier test's stderr, which is closed
            patch.setattr(handler, "stream", err, raising=False)
        patch.chdir(here)
        patch.setattr(sys, "argv", ["hf-layerprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def differences(found: Any, pinned: Any, where: str = "") -> list[str]:
    """Where two JSON values differ; floats do by more than `TOLERANCE`."""
    if isinstance(found, dict) and isinstance(pinned, dict):
        missing = [f"{where}: {key!r} in one of them only" for key in sorted(found.keys() ^ pinned.keys())]
        return missing + [line for key in found.keys() & pinned.keys() for line in differences(found[key], pinned[key], f"{where}.{key}")]
    if isinstance(found, list) and isinstance(pinned, list) and len(found) == len(pinned):
        return [line for place, pair in enumerate(zip(found, pinned)) for line in differences(*pair, f"{where}[{place}]")]
    if isinstance(found, float) and isinstance(pinned, float):
        same = math.isclose(found, pinned, rel_tol=0, abs_tol=TOLERANCE)
    else:
        same = type(found) is type(pinned) and found == pinned
    return [] if same else [f"{where}: {found!r}, pinned is {pinned!r}"]


def snapshot(folder: Path) -> dict[str, Any]:
    """Every name below a folder with its kind, content and times: equal before and after means untouched."""
    state: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else None
        state[str(path.relative_to(folder))] = (info.st_mode, info.st_mtime_ns, content)
    return state


def check_refused(here: Path, *arguments: object, code: int = 1) -> Done:
    """A command must fail with this exit code and one line, `error: ...` for 1 and `Error: ...` below the usage for 2, and leave every
    file in the folder and beside it as it was."""
    before = snapshot(here.parent)
    done = run(here, *arguments)
    assert done.code == code, done
    lines = [line for line in done.err.splitlines() if line]
    if code == 2:
        assert lines[0].startswith("Usage: hf-layerprune") and len(lines) <= 3, done.err
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], done.err
    else:
        assert done.err.startswith("error: ") and done.err.endswith("\n") and len(lines) == 1, done.err
    assert "Traceback" not in done.err and "fault of hf-layerprune" not in done.err, done.err
    after = snapshot(here.parent)
    for names in (before, after):
        names.pop(here.name)  # in which a lock may have come and gone
    assert after == before
    return done
