"""Who holds an output: the kernel's lock, which ends with its process, and the name in the file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.poor_file_system import refusing

HOLDER = """
import sys, time
from pathlib import Path
from hf_layerprune.checkpoint.lock import hold
with hold(Path(sys.argv[1]), "out"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOSYS], ids=["kernel's locks", "no locks", "no such call"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param:
        monkeypatch.setattr("fcntl.flock", refusing(request.param))
    return tmp_path / "x.lock"


def test_held_once(path: Path) -> None:
    with hold(path, "out"):
        with pytest.raises(
            CheckpointError, match=rf"^out: .* is writing it\. Wait for it; if you are sure that it is dead, remove {path}\.$"
        ):
            hold(path, "out").__enter__()
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ValueError), hold(path, "out"):
        raise ValueError
    assert not path.exists()


def test_a_process_that_lives_and_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=f"out: process {process.pid} on .* is writing it"):
        hold(path, "out").__enter__()
    process.kill()
    process.wait()
    assert path.exists()
    with hold(path, "out"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"process 1 on 'there'\nand more"])
def test_what_a_lock_file_says_does_not_hold_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.lock").write_bytes(content)
    with hold(tmp_path / "x.lock", "out"):
        pass
    assert not (tmp_path / "x.lock").exists()
