"""What a machine can do to a rewrite: little memory, few open files, poor file systems, a power cut, a clock set back, Ctrl-C twice."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.durability import check_durable
from tests.checkpoint.independent import snapshot
from tests.checkpoint.poor_file_system import refusing
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

CONVERSION = """
import resource, sys, time
from pathlib import Path
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from tests.rewriting import rewrite
from hf_layerprune.errors import LayerPruneError
def wait(count):
    print("writing", flush=True)
    time.sleep(float(sys.argv[4]))
kind, limit, copying.BLOCK_BYTES = (int(text) for text in sys.argv[5:])
if limit:
    resource.setrlimit(kind, (limit, limit))
try:
    rewrite(Checkpoint.open(Path(sys.argv[1]), "tiny"), PruningPlan.load(sys.argv[2]), Path(sys.argv[3]), progress=wait)
except LayerPruneError as error:
    sys.exit(f"error: {error}")
"""


def convert(
    source: Path, folder: Path, limit: tuple[int, int] | None = None, pause: float = 0, block: int = copying.BLOCK_BYTES
) -> subprocess.Popen[str]:
    """Start a rewrite of `source` to folder/output without layer 1, in a process of its own under a resource limit."""
    make_plan(Checkpoint.open(source, "tiny"), (1,)).save(folder / "plan.json")

    options = [pause, *(limit or (0, 0)), block]
    arguments = [sys.executable, "-c", CONVERSION, str(source), str(folder / "plan.json"), str(folder / "output"), *map(str, options)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to RLIMIT_DATA")
def test_64_mb_of_memory(tmp_path: Path) -> None:
    """All memory that a process can write to, thread stacks included, is limited; the model is larger than that."""
    source = make_checkpoint(tmp_path / "source", shards=2, text_config__vocab_size=1_200_000)
    assert sum(path.stat().st_size for path in source.glob("*.safetensors")) > 72_000_000
    process = convert(source, tmp_path, (resource.RLIMIT_DATA, 64 << 20))
    assert process.communicate()[1] == "" and process.returncode == 0
    assert verify(tmp_path / "output", Checkpoint.open(source, "tiny")).ok


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to RLIMIT_DATA")
def test_more_memory_than_64_mb_is_refused(tmp_path: Path) -> None:
    """The limit does bite on the memory that the copier takes: with one block of 200 MB the same rewrite fails, in one line."""
    source = make_checkpoint(tmp_path / "source", shards=2)
    process = convert(source, tmp_path, (resource.RLIMIT_DATA, 64 << 20), block=200 << 20)
    _, error = process.communicate()
    assert process.returncode == 1 and error.startswith(f"error: {tmp_path / 'output'}: ") and error.count("\n") == 1, error
    assert "Cannot allocate memory" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "source"]


def test_few_open_files(tmp_path: Path) -> None:
    """However few files may be open, the rewrite works or says so in one line, and leaves nothing."""
    source, codes = make_checkpoint(tmp_path / "source", shards=3), []
    while not codes or codes[-1]:
        process = convert(source, tmp_path, (resource.RLIMIT_NOFILE, 3 + len(codes)))  # three are open from the beginning
        _, error = process.communicate()
        codes.append(process.returncode)
        if process.returncode:
            assert error.startswith("error: ") and error.count("\n") == 1, error
            assert "Too many open files" in error and "raise the limit of open files (ulimit -n)." in error
            # Who can open nothing cannot empty a folder: the hidden one waits for the next run.
            assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".layerprune-")} == {"plan.json", "source"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "plan.json", "source"]
    assert 2 < len(codes) < 16 and verify(tmp_path / "output", Checkpoint.open(source, "tiny")).ok


@pytest.mark.parametrize("pause", [0, 0.02], ids=["at once", "a little later"])
def test_interrupted_twice(tmp_path: Path, pause: float) -> None:
    """The second Ctrl-C may cut the cleaning short; nothing stands under the name, and the next run works and cleans up."""
    source = make_checkpoint(tmp_path / "source")
    before = snapshot(source)
    process = convert(source, tmp_path, pause=0.2)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT and not (tmp_path / "output").exists()
    again = convert(source, tmp_path)
    assert again.communicate()[1] == "" and again.returncode == 0
    assert snapshot(source) == before and sorted(path.name for path in tmp_path.iterdir()) == ["output", "plan.json", "source"]


# --- a power cut ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks up the names of open files in /proc")
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwrite"])
def test_all_is_durable_before_it_gets_its_name(tmp_path: Path, replacing: bool) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source", shards=2), "tiny")
    output = tmp_path / "output"
    if replacing:
        rewrite(checkpoint, make_plan(checkpoint, (2,)), output)
    check_durable(output, lambda: rewrite(checkpoint, make_plan(checkpoint, (1,)), output, overwrite=replacing))


# --- file systems that lack something -------------------------------------------------------------------------------------


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, refusing(errno.EPERM))


def without_fsync_of_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)


def without_open_of_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def only_files(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags == os.O_RDONLY and os.path.isdir(path):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", only_files)


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(errno.ENOLCK))


LACKS = [
    without_links,
    without_fsync_of_folders,
    without_open_of_folders,
    without_locks,
]


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: lack.__name__)
def test_a_poor_file_system(tmp_path: Path, lack: Callable[[pytest.MonkeyPatch], None], replacing: bool) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    if replacing:
        rewrite(checkpoint, make_plan(checkpoint, (2,)), tmp_path / "output")
    with pytest.MonkeyPatch.context() as patch:
        lack(patch)
        rewrite(checkpoint, make_plan(checkpoint, (1,)), tmp_path / "output", overwrite=replacing)
    if lack is not without_open_of_folders:  # which shutil.rmtree needs as well: the old folder then waits for the next run
        assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]
    assert verify(tmp_path / "output", checkpoint).ok


def test_a_file_system_without_rename_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a layer of a container's image: it is said what is missing, and what stood there stays."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source"), "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (2,)), tmp_path / "output")
    before = snapshot(tmp_path / "output")
    monkeypatch.setattr(os, "rename", refusing(errno.EXDEV))
    with pytest.raises(CheckpointError, match=r"output: writing it failed: Invalid cross-device link; .*Folders there cannot be renamed"):
        rewrite(checkpoint, make_plan(checkpoint, (1,)), tmp_path / "output", overwrite=True)
    assert snapshot(tmp_path / "output") == before and sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]


# --- clocks and locks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 4_000_000_000], ids=["1970", "2096"])
def test_a_clock_set_back_or_forth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int) -> None:
    """No time decides: what a dead process left is free whatever its age, and what a living one holds is not."""
    monkeypatch.setattr(time, "time", lambda: float(when))
    path = tmp_path / "x.lock"
    path.write_text("process 4194305 on 'here'")
    os.utime(path, (when, when))
    with hold(path, "out"):
        os.utime(path, (when, when))
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on .* is writing it"):
            hold(path, "out").__enter__()
