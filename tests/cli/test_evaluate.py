"""`evaluate` from the command line: the table, --json, recognised and interrupted runs, what is refused before anything is asked."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.cli.options import Lookup
from hf_layerprune.cli.source import at_revision
from hf_layerprune.mini import model_path
from tests.evaluation.evaluating import evaluate_model
from tests.tiny_checkpoint import make_checkpoint

Run = Any
SAMPLES = 30  # a domain


def start(environment: dict[str, str], here: Path, home: Path) -> subprocess.Popen[str]:
    """Many small batches of mini in a process of its own, with a cache of its own."""
    command = [sys.executable, "-m", "hf_layerprune", "evaluate", "mini", "--samples", str(SAMPLES), "--batch-size", "2"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=here, env=environment | {"HF_HOME": str(home)}, stdout=pipe, stderr=pipe, text=True)


def wait_for_answers(process: subprocess.Popen[str], home: Path, least: int) -> Path:
    """Wait until so many answers are kept; the process must still run."""
    end = time.monotonic() + 900
    while time.monotonic() < end and process.poll() is None:
        for path in home.rglob("*.jsonl"):
            if path.read_bytes().count(b"\n") > least:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no answers were kept: {process.communicate()}")


def spread(samples: int, correct: int, standard_error: float, **others: float) -> str:
    """At the edges the bound of the Wilson interval, in its closed form there."""
    bound = 100 * samples / (samples + 1.959964**2)
    return {0: f"≤ {100 - bound:.1f}", samples: f"≥ {bound:.1f}"}.get(correct, f"± {100 * standard_error:.1f}")


def test_the_table_and_the_same_as_json(run: Run, pruned: Path, here: Path) -> None:
    shutil.copytree(pruned, here / "mini-by-hand-14L")
    shown = run("evaluate", "./mini-by-hand-14L", "--against", "mini", "--samples", "18")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and re.fullmatch(r" +mini +mini-by-hand-14L +paired", lines[0])
    report = json.loads((here / "mini-by-hand-14L" / "layerprune" / "eval.json").read_text())
    for scores in report["scores"].values():
        for name, row in scores["subtasks"].items():
            (line,) = (line for line in lines if line.split()[:1] == [name])
            for side in ("model", "against"):
                assert f"{100 * row[side]['mean']:.1f} {spread(**row[side])}" in line
            assert f"({100 * row['paired']['difference']:+.1f}, " in line and line.endswith(row["paired"]["verdict"])
    assert "samples 18 of mini-math + 18 of mini-general" in lines
    assert any("Holm's correction over 9 subtasks, 2 tasks" in line for line in lines)
    assert lines[-1] == "answers mini-by-hand-14L/layerprune/answers.jsonl"
    again = run("evaluate", "./mini-by-hand-14L", "--against", "mini", "--samples", "18", "--json")
    said = json.loads(again.stdout)
    assert again.stderr == "" and said.pop("reused") is True and said.pop("output") == "mini-by-hand-14L/layerprune" and said == report
    assert run("verify", "mini-by-hand-14L").returncode == 0
    refused = run("evaluate", "./mini-by-hand-14L", "--samples", "9")
    assert refused.returncode == 1 and re.fullmatch(r"error: \S+eval\.json exists, of other .*--overwrite\.\n", refused.stderr)
    only = run("evaluate", "mini", "--tasks", "mini-general", "--samples", "4", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (
        only.returncode == 0
        and (" +- " in only.stdout or " >= " in only.stdout)
        and sorted(path.name for path in here.iterdir()) == ["mini-by-hand-14L", "mini-eval"]
    )


def test_killed_and_interrupted_runs_go_on(environment: dict[str, str], here: Path, tmp_path: Path, run: Run) -> None:
    """Killed, then interrupted, then finished: no answer is asked twice, and the files are those of a run that nothing happened to."""
    home = tmp_path / "home"
    first = start(environment, here, home)
    kept = wait_for_answers(first, home, 8)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    before = kept.read_bytes()
    done = before.count(b"\n") - 1
    assert done >= 8 and all(path.suffix == ".lock" for path in here.iterdir())  # the next run takes a dead one's lock

    second = start(environment, here, home)
    wait_for_answers(second, home, done + 4)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=300)
    assert second.returncode == 130 and "Traceback" not in err
    assert err.splitlines()[0].startswith(f"going on with an interrupted evaluation of mini: {done} of {2 * SAMPLES} are answered")
    assert err.splitlines()[-1] == "interrupted: what was answered is kept; run the same command again and it goes on from there."
    assert set(before.splitlines()[1:-1]) <= set(kept.read_bytes().splitlines())

    assert not list(here.iterdir())
    third = run("evaluate", "mini", "--samples", SAMPLES, "--batch-size", "2", HF_HOME=str(home))
    assert third.returncode == 0 and "going on with" in third.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = Checkpoint.open(model_path(), "mini")
        evaluate_model(whole, samples=SAMPLES, batch_size=16, output=tmp_path / "whole", answers_folder=tmp_path / "fresh")
    finally:
        torch.set_num_threads(threads)

    def answers(folder: Path) -> list[str]:
        return (folder / "answers.jsonl").read_text().splitlines()[1:]

    assert answers(here / "mini-eval") == answers(tmp_path / "whole") and len(answers(here / "mini-eval")) == 2 * SAMPLES


def test_a_model_may_be_named_with_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "kept@v1").mkdir(parents=True)
    assert at_revision("owner/model@v1.0") == ("owner/model", Lookup("v1.0"))
    assert at_revision("owner/model@refs/pr/3") == ("owner/model", Lookup("refs/pr/3"))
    for as_typed in ("owner/model", "owner/kept@v1", "mini", "mini@v1", "./model@v1", "/data/model@v1", "a/b/c@v1"):
        assert at_revision(as_typed) == (as_typed, Lookup())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("evaluate {tiny}", 2, "--tasks is missing: tiny does not come from mini"),
        ("evaluate mini --samples 0", 2, "--samples 0: at least 1"),
        ("evaluate mini --max-bad 3", 2, "--max-bad '3'"),
        ("evaluate mini --batch-size 0", 2, "--batch-size 0"),
        ("evaluate mini --max-new-tokens 0", 2, "--max-new-tokens 0"),
        ("evaluate mini --scorer bleu", 2, "bleu"),
        ("evaluate mini --tasks mini-maths", 2, "Did you mean 'mini-math'"),
        ("evaluate mini --tasks none.jsonl", 1, "none.jsonl"),
        ("evaluate mini --tasks {bad}", 1, "bad.jsonl, line 1: no field 'answer'"),
        ("evaluate mini --tasks {url}", 1, "url.jsonl, line 1: 'https://example.org/a.png' is a URL"),
        ("evaluate mini --tasks {bad} --samples 5", 1, "1 records, fewer than --samples 5"),
        ("evaluate mini --against nowhere", 1, "'nowhere'"),
        ("evaluate mini --against owner/model@", 2, "'owner/model@': no revision follows the @"),
        ("evaluate owner/model@v1 --tasks mini-math --revision v2", 2, "'owner/model@v1' names a revision, and --revision names another"),
        ("evaluate mini -o taken", 1, "taken"),
    ],
)
def test_refused_before_the_model_is_needed(run_here: Run, here: Path, tmp_path: Path, arguments: str, code: int, words: str) -> None:
    """In a process where torch cannot be imported."""
    files = {"bad": '{"question": "?", "image": "a.png"}', "url": '{"question": "?", "image": "https://example.org/a.png", "answer": "1"}'}
    for name, line in files.items():
        (tmp_path / f"{name}.jsonl").write_text(line + "\n")
    places = {name: tmp_path / f"{name}.jsonl" for name in files} | {"tiny": make_checkpoint(tmp_path / "tiny")}
    (here / "taken").mkdir()
    (here / "taken" / "thesis.tex").write_text("mine")
    done = run_here(*arguments.format(**places).split())
    assert done.returncode == code and words in done.stderr, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error")]) == 1
    assert [path.name for path in here.rglob("*")] == ["taken", "thesis.tex"]
