"""Every command, each in a process of its own: what it says to people, to machines, and when it is told to be quiet."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.mini import model_path
from tests.checkpoint.independent import pruned as pruned_tensors
from tests.checkpoint.independent import read_model, snapshot
from tests.tiny_checkpoint import make_checkpoint

Run = Any
SOURCE_LINE = "mini · qwen3_vl · 16 decoder layers x 128 · 3.83 M parameters"


def test_convert(run: Run, here: Path, statistics: Path) -> None:
    before = snapshot(model_path())
    done = run("convert", "mini", "--samples", "2")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == SOURCE_LINE and max(len(line) for line in lines if not line.startswith(("wrote", "next"))) <= 80
    plan = json.loads((here / "mini-mixed-13L/layerprune/plan.json").read_text())
    dropped = plan["drop"]
    assert len(dropped) == 3 and dropped[0] >= 3 and dropped[-1] < 15
    assert any(line.startswith(f"removed 3 of 16 layers: {', '.join(map(str, dropped))}") for line in lines)
    assert any("synthetic, seed 0, 64 pixels" in line for line in lines)
    assert lines[-2] == "next    hf-layerprune evaluate mini-mixed-13L --against mini"
    assert lines[-1] == "        hf-layerprune heal mini-mixed-13L --recipe domain-aware"
    assert "220 tensors identical to their source" in lines[-3]
    (marks,) = [line.split() for line in lines if line.count("◆") == 4]
    assert [number for number, mark in enumerate(marks) if mark == "✕"] == dropped
    assert read_model(here / "mini-mixed-13L") == pruned_tensors(read_model(model_path()), plan["keep"])
    assert snapshot(model_path()) == before and [path.name for path in here.iterdir()] == ["mini-mixed-13L"]

    proved = run("verify", "mini-mixed-13L", "--source", "mini", "--deep")  # the command that it named
    assert proved.returncode == 0 and proved.stderr == ""
    assert "220 tensors identical to mini" in proved.stdout and "every key in its place" in proved.stdout


def test_convert_for_machines(run: Run, here: Path, statistics: Path) -> None:
    done = run("convert", "mini", "--samples", "2", "--method", "math", "--budget", "10%", "-o", "out", "--json")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert said["plan"] == json.loads((here / "out/layerprune/plan.json").read_text())
    assert said["plan"]["strategy"] == "math" and said["plan"]["budget"] == {"asked": "10%", "of": "middle", "layers": 1}
    assert said["output"] == "out" and said["verified"] is True
    assert said["bytes"] == sum(len(content) for _, _, content in read_model(here / "out").values())
    assert said["source_bytes"] == sum(len(content) for _, _, content in read_model(model_path()).values())


@pytest.mark.parametrize(
    "arguments",
    [
        "convert mini --samples 2 -o out",
        "plan {statistics} -o plan.json",
        "probe mini --samples 2 -o again.safetensors",
        "verify {pruned} --source mini",
        "inspect mini",
        "strategies",
    ],
)
def test_quiet(run: Run, statistics: Path, pruned: Path, arguments: str) -> None:
    done = run(*arguments.format(statistics=statistics, pruned=pruned).split(), "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dry_run_writes_nothing(run: Run, here: Path, statistics: Path) -> None:
    done = run("convert", "mini", "--samples", "2", "--dry-run")
    assert done.returncode == 0 and not list(here.iterdir())
    assert "removed 3 of 16 layers" in done.stdout and done.stdout.splitlines()[-1] == "dry run: nothing was written"
    as_json = run("convert", "mini", "--samples", "2", "--dry-run", "--json", "-o", "out")
    assert len(json.loads(as_json.stdout)["plan"]["drop"]) == 3 and not list(here.iterdir())


def test_probe(run: Run, here: Path, statistics: Path) -> None:
    done = run("probe", "mini", "--samples", "2", "-o", "s.safetensors", "--json")
    assert done.returncode == 0 and done.stderr == ""
    said = json.loads(done.stdout)
    assert said["output"] == "s.safetensors" and len(said["fingerprint"]) == 64
    assert (here / "s.safetensors").read_bytes() == statistics.read_bytes()


def test_plan_and_apply_are_convert(run: Run, here: Path, statistics: Path) -> None:
    """In two steps the same bytes as in one, but for the statistics, which stay in their own file."""
    planned = run("plan", statistics, "--method", "cka", "--num-layers", "4", "-o", "plan.json")
    assert planned.returncode == 0 and "a plan for mini" in planned.stdout
    assert planned.stdout.splitlines()[-1] == "next    hf-layerprune apply mini plan.json -o DIR"
    assert run("apply", "mini", "plan.json", "-o", "two").returncode == 0
    assert run("convert", "mini", "--samples", "2", "--method", "cka", "--num-layers", "4", "-o", "one").returncode == 0
    for name in ("model.safetensors", "config.json", "layerprune/plan.json", "layerprune/manifest.json"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_inspect(run: Run) -> None:
    done = run("inspect", "mini")
    assert done.returncode == 0 and done.stdout.startswith(SOURCE_LINE)
    assert "protected by default: 0-2,15" in done.stdout
    said = json.loads(run("inspect", "mini", "--json").stdout)
    assert said["protected"] == [0, 1, 2, 15] and said["tied"] is True
    assert [(row["budget"], row["removes"], row["layers"]) for row in said["budgets"]] == [("10%", 1, 15), ("25%", 3, 13), ("40%", 5, 11)]
    sizes = {name: len(content) for name, (_, _, content) in read_model(model_path()).items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.language_model.layers.7."))
    assert said["bytes"] == sum(sizes.values()) and said["parameters"] == said["bytes"] // 2
    assert [said["bytes"] - row["bytes"] for row in said["budgets"]] == [layer, 3 * layer, 5 * layer]


def test_strategies(run: Run) -> None:
    said = json.loads(run("strategies", "--json").stdout)["strategies"]
    names = [row["name"] for row in said]
    assert {"math", "nonmath", "mixed", "cka", "interlace", "interlace-pooled", "random"} <= set(names)
    (mixed,) = [row for row in said if row["name"] == "mixed"]
    assert [(item["name"], item["default"]) for item in mixed["parameters"]] == [("alpha", 0.7)] and "2603.20275" in mixed["paper"]
    assert all(name in run("strategies").stdout for name in names)


def test_verify_tells_each_difference(run: Run, here: Path, pruned: Path) -> None:
    (here / "copy").mkdir()
    for path in pruned.rglob("*"):
        if path.is_file():
            (here / "copy" / path.relative_to(pruned)).parent.mkdir(exist_ok=True)
            (here / "copy" / path.relative_to(pruned)).write_bytes(path.read_bytes())
    content = bytearray((here / "copy/model.safetensors").read_bytes())
    content[-1] ^= 1
    (here / "copy/model.safetensors").write_bytes(content)
    done = run("verify", "copy", "--source", "mini", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and done.stderr == "" and said["ok"] is False and len(said["differences"]) == 2
    assert "sha256" in said["differences"][0] and "is not the source's" in said["differences"][1]
    for_people = run("verify", "copy", "--source", "mini")
    assert for_people.returncode == 1 and for_people.stdout.splitlines() == [*said["differences"], "2 differences"]


def on_a_terminal(environment: dict[str, str], here: Path, *arguments: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hf_layerprune", *arguments]
    process = subprocess.Popen(command, cwd=here, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    content = b""
    try:
        while part := os.read(ours, 4096):
            content += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=300) == 0, content
    return content.decode()


def test_colours_only_where_wanted(environment: dict[str, str], here: Path, statistics: Path, run: Run) -> None:
    terminal = environment | {"TERM": "xterm-256color"}
    assert "\x1b[31m" in on_a_terminal(terminal, here, "plan", str(statistics), "-o", "one.json")
    plain = on_a_terminal(terminal | {"NO_COLOR": "1"}, here, "plan", str(statistics), "-o", "two.json")
    assert "\x1b" not in plain and "✕" in plain
    assert "\x1b" not in run("plan", statistics, "-o", "three.json").stdout


def test_a_reader_that_went_away(environment: dict[str, str], here: Path) -> None:
    """As `hf-layerprune strategies | head -0` has it: no traceback, nothing to report."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "hf_layerprune", "strategies"]
    done = subprocess.run(command, cwd=here, env=environment, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["people", "machines"])
def test_any_encoding_of_stdout(
    environment: dict[str, str], here: Path, statistics: Path, pruned: Path, encoding: str, flags: list[str]
) -> None:
    """Whatever the terminal's encoding cannot show is shown otherwise, and never a reason to fail."""
    for arguments in (
        ["plan", str(statistics), "-o", "plan ✕😀.json"],
        ["inspect", "mini"],
        ["verify", str(pruned)],
        ["convert", "mini", "--layers", "5", "-o", os.fsdecode(b"out \xf0\x9f\x98\x80 \xff")],  # the last byte is no UTF-8
    ):
        command = [sys.executable, "-m", "hf_layerprune", *arguments, *flags]
        done = subprocess.run(command, cwd=here, env=environment | {"PYTHONIOENCODING": encoding}, capture_output=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, b""), arguments
        if flags:
            assert json.loads(done.stdout)["output"] == arguments[-1] if "-o" in arguments else json.loads(done.stdout)
        else:
            assert done.stdout


def test_inspect_a_model_of_few_layers(run: Run, tmp_path: Path) -> None:
    done = run("inspect", str(make_checkpoint(tmp_path / "tiny", layers=6)))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.lstrip().startswith(("10%", "25%", "40%"))]
    assert [row[1:3] for row in rows[:3]] == [["none", "6"], ["1", "5"], ["1", "5"]] and len(rows) == 6  # then the memory of each
