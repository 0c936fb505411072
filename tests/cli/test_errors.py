"""What an error looks like to a program, and which of several mistakes is told first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.independent import snapshot

Run = Any

ERRORS = (  # of every command, with its type and exit code
    ("inspect nowhere", "SourceError", 1),
    ("inspect", "UsageError", 2),
    ("convert mini --budget 3", "UsageError", 2),
    ("convert mini --layers 0", "StrategyError", 1),
    ("probe mini --samples 0 -o new.safetensors", "UsageError", 2),
    ("plan mini --layers 5", "UsageError", 2),
    ("plan old.safetensors -o new.json", "ArtifactError", 1),
    ("apply mini nowhere.json -o new", "ArtifactError", 1),
    ("heal nowhere", "SourceError", 1),
    ("heal mini --recipe interlac", "UsageError", 2),
    ("evaluate mini --samples few", "UsageError", 2),
    ("evaluate mini --tasks none.jsonl", "DataError", 1),
    ("card nowhere", "PublishError", 1),
    ("push nowhere me/name", "PublishError", 1),
    ("verify nowhere", "ArtifactError", 1),
    ("strategies now", "UsageError", 2),
    ("recipes --quite", "UsageError", 2),
    ("frobnicate", "UsageError", 2),
    ("--version-of mini", "UsageError", 2),
)


@pytest.mark.parametrize(("line", "kind", "code"), ERRORS)
def test_json_of_an_error(run_here: Run, here: Path, line: str, kind: str, code: int) -> None:
    """One object on stdout beside the line on stderr, which stays as it is."""
    (here / "old.safetensors").write_bytes(b"none")
    done = run_here(*line.split(), "--json")
    assert done.returncode == code and done.stdout.count("\n") == 1
    (error,) = json.loads(done.stdout).values()
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert done.stderr.splitlines()[-1].lower() == f"error: {error['message']}".lower()
    assert run_here(*line.split()).stdout == ""


def test_json_of_an_interrupt_and_of_a_fault(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token in a fault's message is in neither stream."""

    def raised(error: BaseException) -> Any:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("hf_layerprune.checkpoint.source.open_without_weights", fail)
        done = run_here("inspect", "mini", "--json")
        return done.returncode, json.loads(done.stdout)["error"], done.stderr

    code, error, err = raised(KeyboardInterrupt())
    assert code == error["exit_code"] == 130 and error["type"] == "Interrupted" and err == f"\ninterrupted: {error['message']}\n"
    code, error, err = raised(KeyError("hf_" + "x" * 30))
    assert code == error["exit_code"] == 1 and error["type"] == "KeyError" and err == f"error: {error['message']}\n"
    assert "fault of hf-layerprune" in err and "xxx" not in err


def test_only_the_first_process_prints_json(run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    done = run_here("heal", "nowhere", "--json")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: 'nowhere'")


MISTAKES = (  # each with an output that exists, and what must be told instead of that
    ("convert mini --dtype fp17 -o out", "dtype 'fp17': expected auto, float32"),
    ("convert mini --samples -3 -o out", "--samples -3"),
    ("convert mini --math-images nowhere --general-images nowhere -o out", "'nowhere' is neither"),
    ("convert mini --math-images one -o out", "add --general-images"),
    ("convert mini --layers 5 --samples 3 -o out", "--samples is for a probe"),
    ("probe mini --dtype fp17 -o plan.json", "dtype 'fp17'"),
    ("probe mini --samples -3 -o plan.json", "--samples -3"),
    ("probe mini --math-images nowhere -o plan.json", "'nowhere' is neither"),
    ("plan nowhere -o plan.json", "nowhere"),
    ("plan mini --budget 3 -o plan.json", "--budget '3'"),
    ("plan mini -o plan.json", "needs statistics"),
    ("apply mini nowhere.json -o out", "nowhere.json"),
    ("apply nowhere plan.json -o out", "'nowhere'"),
    ("apply mini plan.json --statistics plan.json -o out", "plan.json"),
    ("heal mini --data nowhere.jsonl -o out", "'nowhere.jsonl'"),
    ("heal mini --data one/a.png -o out", "a.png: not a file of records"),
    ("heal mini --data mini --save-steps 0 -o out", "--save-steps 0"),
    ("heal mini --recipe interlace --tune-last 2 --set precision=fp16 -o out", "precision"),
    ("evaluate mini --dtype fp17 -o out", "dtype 'fp17'"),
    ("evaluate mini --samples -3 -o out", "--samples -3"),
    ("evaluate mini --tasks nowhere.jsonl -o out", "'nowhere.jsonl'"),
    ("evaluate mini --against nowhere -o out", "'nowhere'"),
)


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_an_existing_output_hides_no_other_mistake(run_here: Run, here: Path, line: str, said: str) -> None:
    (here / "one").mkdir()
    (here / "one/a.png").write_bytes(b"not opened")
    (here / "out").mkdir()
    (here / "out/mine").write_text("mine")
    assert run_here("plan", "mini", "--layers", "5", "-o", "plan.json").returncode == 0
    before = snapshot(here)
    done = run_here(*line.split(), "--json")
    message = json.loads(done.stdout)["error"]["message"]
    assert said in message and "exists" not in message
    assert snapshot(here) == before
