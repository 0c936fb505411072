"""Outputs: what may be written where, what is replaced, what is recognised as finished, and names of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from hf_layerprune import LayerStatistics, PruningPlan
from tests.checkpoint.independent import snapshot
from tests.tiny_checkpoint import make_checkpoint

Run = Any


def refused(done: CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1 and done.stdout.count("wrote") == 0
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def convert(run: Run, *arguments: object) -> CompletedProcess[str]:
    return run("convert", "source", "--layers", "3", *arguments)


@pytest.fixture
def source(here: Path) -> Path:
    """A tiny checkpoint of 6 layers, `source` in the folder that commands run in."""
    return make_checkpoint(here / "source")


def test_an_empty_folder_is_used(run: Run, here: Path, source: Path) -> None:
    (here / "out").mkdir()
    assert convert(run, "-o", "out").returncode == 0
    assert (here / "out" / "config.json").is_file()


FOLDERS: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "file": (lambda here: (here / "out").write_text("mine"), "out", ("is a file",)),
    "foreign folder": (lambda here: shutil.copytree(here / "source", here / "out"), "out", ("not empty", "not made by hf-layerprune")),
    "the source": (lambda here: None, "source", ("source", "never written to")),
    "in the source": (lambda here: None, "source/out", ("source", "never written to")),
    "holds the source": (lambda here: None, "../here", ("holds the source",)),
    "link": (lambda here: (here / "out").symlink_to("source"), "out", ("is a link",)),
    "dangling link": (lambda here: (here / "out").symlink_to("nowhere"), "out", ("is a link",)),
    "a file above it": (lambda here: (here / "no").touch(), "no/out", ("no is not a folder",)),
    "long name": (lambda here: None, "x" * 256, ("256 bytes",)),
    "newline": (lambda here: None, "a\nb", ("not a name",)),
}


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize(("make", "output", "words"), FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_that_are_refused(
    run_here: Run, here: Path, source: Path, make: Callable[[Path], object], output: str, words: tuple[str, ...], flags: list[str]
) -> None:
    """--overwrite makes no difference to what is not ours. Nothing was probed either: this has no torch."""
    make(here)
    before = snapshot(here)
    refused(run_here("convert", "source", "--no-cache", "-o", output, *flags), *words)
    assert snapshot(here) == before


def test_ours_is_replaced_when_told_to(run: Run, here: Path, source: Path) -> None:
    assert convert(run, "-o", "out").returncode == 0
    before = snapshot(here)
    refused(run("convert", "source", "--layers", "4", "-o", "out"), "out exists", "--overwrite")
    assert snapshot(here) == before
    assert run("convert", "source", "--layers", "4", "-o", "out", "--overwrite").returncode == 0
    assert PruningPlan.load(here / "out/layerprune/plan.json").drop == (4,)
    assert sorted(path.name for path in here.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("name", ["with space", "emoji 😀", 'quote\'s "both"', "-dash", "x" * 255, "😀" * 63, "$HOME;ls", "tab\\t"])
def test_names(run: Run, here: Path, source: Path, statistics: Path, name: str) -> None:
    """Folders and files of any name, and the next command is quoted so that a shell takes it."""
    done = convert(run, f"--output={name}")
    assert done.returncode == 0 and (here / name / "layerprune" / "plan.json").is_file(), done.stderr
    (here / "files").mkdir()
    planned = run("plan", statistics, f"--output=files/{name}")
    assert planned.returncode == 0, planned.stderr
    assert PruningPlan.load(here / "files" / name).layers == 16 and len(list((here / "files").iterdir())) == 1
    import shlex

    for line, place in zip(done.stdout.splitlines()[-2:], (3, 2), strict=True):  # "next    hf-layerprune evaluate ..", "  .. heal .."
        assert shlex.split(line)[place] == (f"./{name}" if name.startswith("-") else name)


FILES: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "foreign file": (lambda here: (here / "out").write_text("mine"), "out", ("out",)),
    "folder": (lambda here: (here / "out").mkdir(), "out", ("is not a file",)),
    "link": (lambda here: (here / "out").symlink_to("source/config.json"), "out", ("is a link",)),
    "in the source": (lambda here: None, "source/out", ("source", "never written to")),
    "below the source": (lambda here: None, "source/additional/out", ("source", "never written to")),
    "a weight file of the source": (lambda here: None, "source/model.safetensors", ("source", "never written to")),
    "a file above it": (lambda here: (here / "no").touch(), "no/out", ("no is not a folder",)),
    "long name": (lambda here: None, "x" * 256, ("256 bytes",)),
}


@pytest.mark.parametrize("flags", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("command", [["probe", "source", "--no-cache"], ["plan", "source", "--layers", "3"]], ids=["probe", "plan"])
@pytest.mark.parametrize(("make", "output", "words"), FILES.values(), ids=FILES.keys())
def test_files_that_are_refused(
    run_here: Run,
    here: Path,
    source: Path,
    make: Callable[[Path], object],
    output: str,
    words: tuple[str, ...],
    command: list[str],
    flags: list[str],
) -> None:
    make(here)
    before = snapshot(here)
    refused(run_here(*command, "-o", output, *flags), *words)
    assert snapshot(here) == before


def test_a_finished_probe_is_recognised(run: Run, run_without_torch: Run, here: Path, statistics: Path) -> None:
    shutil.copy(statistics, here / "s.safetensors")
    before = snapshot(here)
    for flags in ([], ["--overwrite"], ["--no-cache"], ["--max-bad", "5%"]):
        done = run_without_torch("probe", "mini", "--samples", "2", "-o", "s.safetensors", *flags)
        assert done.returncode == 0 and "holds these statistics already; nothing was changed" in done.stdout
    said = json.loads(run_without_torch("probe", "mini", "--samples", "2", "-o", "s.safetensors", "--json").stdout)
    assert said == {"output": "s.safetensors", "fingerprint": LayerStatistics.load(statistics).fingerprint, "reused": True}
    for other in (["--samples", "3"], ["--samples", "2", "--dtype", "bfloat16"], ["--samples", "2", "--device", "cpu"]):
        refused(run_without_torch("probe", "mini", *other, "-o", "s.safetensors"), "exists", "--overwrite")
    assert snapshot(here) == before
    assert run("probe", "mini", "--samples", "1", "-o", "s.safetensors", "--overwrite").returncode == 0
    assert LayerStatistics.load(here / "s.safetensors").samples.tolist() == [1] * 9


def test_a_plan_replaces_only_a_plan(run: Run, here: Path, statistics: Path) -> None:
    shutil.copy(statistics, here / "s.safetensors")
    before = snapshot(here)
    refused(run("plan", statistics, "-o", "s.safetensors", "--overwrite"), "no plan file of ours")
    assert snapshot(here) == before
    assert run("plan", statistics, "--layers", "5", "-o", "plan.json").returncode == 0
    refused(run("plan", statistics, "--layers", "6", "-o", "plan.json"), "exists", "--overwrite")
    refused(run("probe", "mini", "--samples", "2", "-o", "plan.json", "--overwrite"), "no statistics file of ours")
    assert PruningPlan.load(here / "plan.json").drop == (5,)
    assert run("plan", statistics, "--layers", "6", "-o", "plan.json", "--overwrite").returncode == 0
    assert PruningPlan.load(here / "plan.json").drop == (6,)
