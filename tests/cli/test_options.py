"""Bad options: one clear line, the right exit code, and a file system that is as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.checkpoint.independent import snapshot
from tests.tiny_checkpoint import make_checkpoint

Run = Any


def refused(done: CompletedProcess[str], code: int, pattern: str) -> None:
    """One line that matches: `error: ...` with exit code 1, or below the usage `Error: ...` with 2. No traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if code == 1:
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    else:
        assert lines[0].startswith("Usage: hf-layerprune") and lines[-1].startswith("Error: "), done.stderr
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:] and len(lines) <= 3
    assert re.search(pattern, lines[-1]), lines[-1]
    assert "Traceback" not in done.stderr and "fault of hf-layerprune" not in done.stderr


USAGE = [  # what is refused and leaves nothing is pinned; here, what it says
    ("--budget 1.5", "out of range.*1.5%"),
    ("--budget 25_%", "invalid --budget.*without a space"),
    ("--budget 1e-9", "less than one layer.*0.07"),
    ("--budget 0.2 --num-layers 3", "got --budget and --num-layers"),
    ("--num-layers 16", "from 1 to 13"),
    ("--layers 5-3", "backwards; write 3-5"),
    ("--layers 3-99", "from 0 to 15"),
    ("--layers 5 --method math", "leave one of them out"),
    ("--protect frist", "got 'frist'"),
    ("--method mixed --set alpha=1 --set alpha=0", "twice"),
    ("--method mixed --set alhpa=1", "no parameter 'alhpa'.*alpha"),
    ("--method random --budget 0.99 --budget-of all", "removing 15 of 16 layers leaves 1; at least 3 must stay"),
    ("--method miced", "no strategy 'miced'.*'mixed'"),
    ("--metod math", "(?i)no such option.*--method"),
]
KNOWN = [
    ("--layers 0,5", "layer 0 is protected .first.*Free layers: 3-14.*--force"),
    ("--layers 7 --protect first,7", "layer 7 is protected .by --protect"),
    ("--num-layers 13", "asks for 13 layers, but only 12 are free"),
    ("--method interlace --budget 0.4 --strict", "reaches [34] of 5 layers by its own spacing rule.*--strict"),
]


@pytest.mark.parametrize(("arguments", "pattern"), USAGE)
def test_usage(run_here: Run, here: Path, statistics: Path, arguments: str, pattern: str) -> None:
    """Refused by `plan`, and by `convert` before the model loads: torch cannot be imported here."""
    parts = [part.replace("25_%", "25 %") for part in arguments.split()]
    refused(run_here("plan", statistics, *parts, "-o", "plan.json"), 2, pattern)
    refused(run_here("convert", "mini", "--no-cache", *parts), 2, pattern)
    assert not list(here.iterdir())


@pytest.mark.parametrize(("arguments", "pattern"), KNOWN)
def test_known_errors(run_here: Run, here: Path, statistics: Path, arguments: str, pattern: str) -> None:
    refused(run_here("plan", statistics, *arguments.split(), "-o", "plan.json"), 1, pattern)
    if "--strict" not in arguments:  # which can be judged only once the layers are measured
        refused(run_here("convert", "mini", "--no-cache", *arguments.split()), 1, pattern)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "drop"),
    [
        ("--layers 3-5,9", [3, 4, 5, 9]),
        ("--layers 9,3", [3, 9]),
        ("--layers 0,5 --force", [0, 5]),
        ("--layers 1 --protect first,last", [1]),
        ("--budget 25%", 3),
        ("--budget 0.25", 3),
        ("--budget 25% --budget-of all", 4),
        ("--budget .1", 1),
        ("--num-layers 12", 12),
        ("--protect none --num-layers 13", 13),
    ],
)
def test_good_options(run: Run, here: Path, statistics: Path, arguments: str, drop: Any) -> None:
    done = run("plan", statistics, *arguments.split(), "-o", "plan.json", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads((here / "plan.json").read_text())
    assert plan["drop"] == drop if isinstance(drop, list) else len(plan["drop"]) == drop
    assert plan["forced"] == ([0] if "--force" in arguments else [])
    assert ("DeepStack" in done.stderr) == (min(plan["drop"]) < 3)


def test_a_forced_plan_applies_without_a_flag(run: Run, here: Path, statistics: Path) -> None:
    run("plan", "mini", "--layers", "0,5", "--force", "-o", "plan.json")
    done = run("apply", "mini", "plan.json", "-o", "out")
    assert done.returncode == 0 and re.fullmatch(r"warning: the plan drops layer 0 of the 3 .*\n", done.stderr)


def test_relaxed_is_said_and_recorded(run: Run, here: Path, statistics: Path) -> None:
    """Twelve free layers hold at most four triplets, and five layers are to go."""
    done = run("plan", statistics, "--method", "interlace", "--budget", "0.4", "-o", "plan.json")
    plan = json.loads((here / "plan.json").read_text())
    assert done.returncode == 0 and len(plan["drop"]) == 5 and plan["relaxed"] is True and len(plan["strict_drop"]) <= 4
    assert f"relaxed interlace's own spacing rule reaches {len(plan['strict_drop'])} of 5 layers" in done.stdout
    converted = run("convert", "mini", "--method", "interlace", "--budget", "0.4", "--samples", "2", "--dry-run")
    for said in (done.stdout, converted.stdout):
        assert "✕ removed (relaxed)" in said and "removed 5 of 16 layers (relaxed): " in said


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        ("convert mini --math-images {one}", 2, "nonmath domain too: add --general-images"),
        ("convert mini --general-images {empty}", 1, "no image in that folder"),
        ("convert mini --method math --math-images {one} --samples 5", 1, "1 images, fewer than --samples 5.*--allow-fewer"),
        ("convert mini --method math --math-images {one}/a.png", 1, "not a file of records; expected .jsonl"),
        ("convert mini --revision main --layers 5", 1, "only an id on the Hub has revisions"),
        ("convert nowhere --layers 5", 1, "neither an existing folder, nor 'mini', nor a Hub id"),
        ("plan mini --method mixed -o plan.json", 1, "needs statistics.*hf-layerprune probe mini -o "),
        ("apply mini nowhere.json -o out", 1, "cannot read the plan"),
        ("apply {tiny} {plan} -o out", 1, "another model"),
        ("verify nowhere", 1, "no folder of that name"),
        ("convrt mini", 2, "no command 'convrt'. Did you mean 'convert'"),
    ],
)
def test_other_arguments(run_here: Run, tmp_path: Path, statistics: Path, arguments: str, code: int, pattern: str) -> None:
    """All refused without the model: torch cannot be imported here."""
    for folder in ("empty", "one"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "a.png").write_bytes(b"not opened yet")
    make_checkpoint(tmp_path / "tiny")
    assert run_here("plan", "mini", "--layers", "5", "-o", tmp_path / "plan.json", "-q").returncode == 0
    places = {"empty": tmp_path / "empty", "one": tmp_path / "one", "tiny": tmp_path / "tiny", "plan": tmp_path / "plan.json"}
    before = snapshot(tmp_path)
    refused(run_here(*arguments.format(**places, statistics=statistics).split()), code, pattern)
    assert snapshot(tmp_path) == before


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("convert", "nowhere", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run("convert", "nowhere").stderr
