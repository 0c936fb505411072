"""Rows of BAD_INPUT.md on options, budgets, plans and outputs: exit code, one line, and a file system that is as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pins.commands import CONVERT, check_refused, run, snapshot
from tests.pins.static_checkpoint import dense_config, dense_shapes, make_tensors, write_checkpoint, write_dense

Spoil = Callable[[Path], object]
USAGE = (  # a space within a value is written as an underscore
    *(f"--budget {budget}" for budget in ("0", "1", "1.5", "-0.1", "abc", "25_%", "nan", "inf", "1e-9", "0%", "100%")),
    *("--budget 0.2 --num-layers 3", "--budget 0.2 --layers 5", "--num-layers 2 --layers 5"),
    *("--num-layers 0", "--num-layers 16", "--num-layers -2", "--num-layers two", "--budget-of most"),
    *(f"--layers {layers}" for layers in ("16", "-1", "5,5", "3-5,4", "5-3", "3-99", "3,,5", "five", "0-15 --force")),
    *("--layers 5 --method math", "--layers 5 --set alpha=1", "--force", "--protect frist", "--protect 16"),
    *(
        f"--method mixed --set {value}"
        for value in ("alpha", "=1", "alpha=1 --set alpha=0", "alhpa=1", "alpha=much", "alpha=nan", "alpha=2")
    ),
    *("--method random --set seed=1.5", "--method cka --set activations=both", "--method math --set alpha=1"),
    *("--method miced", "--metod math", "--method random --budget 0.99 --budget-of all"),
)
KNOWN = (
    *("--layers 0,5", "--layers 2", "--layers 15 --protect last", "--layers 7 --protect first,7", "--num-layers 13"),
    "--method random --budget 0.82 --budget-of all",
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that commands run in, empty."""
    folder = tmp_path / "here"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(("code", "line"), [*((2, line) for line in USAGE), *((1, line) for line in KNOWN)])
def test_what_may_not_be_asked_of_a_plan(here: Path, statistics: Path, code: int, line: str) -> None:
    """Refused by `plan`, and by `convert` before it probes."""
    options = [word.replace("_", " ") for word in line.split()]
    check_refused(here, "plan", statistics, *options, "-o", "plan.json", code=code)
    check_refused(here, "convert", "mini", "--no-cache", *options, code=code)


def test_a_spacing_rule_under_strict(here: Path, statistics: Path) -> None:
    check_refused(here, *"plan --method interlace --budget 0.4 --strict -o plan.json".split(), statistics)


OTHERS = {  # one: a folder with an image; none: an empty one; other: a checkpoint of another kind; plan.json: for mini
    2: """convert
convert mini --samples 0
convert mini --samples few
convert mini --max-bad 2 --samples 1
convert mini --device tpu
convert mini --max-shard-size lots --layers 5
convert mini --math-images one
convert mini --method math --general-images one
convert mini --layers 5 --math-images one
convert owner/name --stream --method math
convrt mini
plan mini --layers 5
evaluate other
evaluate mini --samples 0
evaluate mini --max-bad 3
evaluate mini --batch-size 0
evaluate mini --max-new-tokens 0
evaluate mini --scorer bleu
evaluate mini --tasks mini-maths
evaluate mini --against owner/model@
heal mini --recipe interlac
heal mini --set batch_size=0
heal mini --set batchsize=4
heal mini --data mini,cuont=4
heal other --recipe interlace
verify owner/name --deep
push one name
push one me/name --create-pr --revision x""",
    1: """convert mini --general-images none
convert mini --method math --math-images none
convert mini --method math --math-images one --samples 5
convert mini --method math --math-images one/a.png
convert mini --method math --math-images nowhere
convert mini --revision main --layers 5
convert nowhere --layers 5
convert https://example.org/a/b --layers 5
plan mini --method mixed -o new.json
plan nowhere -o new.json
plan one/a.png -o new.json
plan cut.safetensors -o new.json
apply mini nowhere.json -o out
apply mini cut.safetensors -o out
apply other plan.json -o out
apply mini other -o out
apply mini plan.json --statistics cut.safetensors -o out
apply mini plan.json --statistics {statistics} -o out
verify other
verify nowhere
inspect one
evaluate mini --against nowhere
evaluate mini --tasks none.jsonl
heal nowhere
heal mini --data none.jsonl
card other
push other me/name
push nowhere me/name""",
}


@pytest.mark.parametrize(("code", "line"), [(code, line) for code, lines in OTHERS.items() for line in lines.splitlines()])
def test_other_arguments(here: Path, statistics: Path, code: int, line: str) -> None:
    (here / "none").mkdir()
    (here / "one").mkdir()
    (here / "one/a.png").write_bytes(b"not opened")
    (here / "cut.safetensors").write_bytes(statistics.read_bytes()[:-1])
    write_dense(here / "other")
    assert run(here, *"plan mini --layers 5 -o plan.json".split()).code == 0
    check_refused(here, *line.format(statistics=statistics).split(), code=code)


# --- plans ----------------------------------------------------------------------------------------------------------------

EDITS: dict[str, dict[str, Any]] = {
    "of a newer format": {"format": 2},
    "an unknown key": {"drops": [3]},
    "drops and keeps a layer": {"keep": [0, 1, 2, 3, 4, 5]},
    "neither drops nor keeps one": {"keep": [0, 1, 2, 4]},
    "drops what it protects": {"protected": [3]},
    "no layer": {"drop": [], "keep": [0, 1, 2, 3, 4, 5]},
    "another budget": {"budget": {"asked": None, "of": "layers", "layers": 2}},
    "of another family": {"family": "qwen3_vl_moe"},
    "of another fingerprint": {"source": {"id": "source", "commit": None, "fingerprint": "0" * 64}},
    "scores that are none": {"scores": dict.fromkeys("012345", "high")},
    "too few scores": {"scores": {"0": 0.5}},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_plan(source: Path, edit: dict[str, Any]) -> None:
    here = source.parent
    assert run(here, *"plan source --layers 3 -o plan.json".split()).code == 0
    value = json.loads((here / "plan.json").read_text()) | edit
    (here / "plan.json").write_text(json.dumps(value))
    check_refused(here, *"apply source plan.json -o out".split())


def test_a_plan_of_another_model(source: Path) -> None:
    """Of the same shapes; then a plan that was cut short."""
    here = source.parent
    write_checkpoint(here / "other", dense_config(), make_tensors(dense_shapes(), seed=1))
    assert run(here, *"plan other --layers 3 -o plan.json".split()).code == 0
    check_refused(here, *"apply source plan.json -o out".split())
    (here / "plan.json").write_bytes((here / "plan.json").read_bytes()[:-20])
    check_refused(here, *"apply other plan.json -o out".split())


# --- outputs --------------------------------------------------------------------------------------------------------------

FOLDERS: dict[str, tuple[Spoil, str]] = {
    "a file": (lambda here: (here / "out").write_text("mine"), "out"),
    "a foreign folder": (lambda here: shutil.copytree(here / "source", here / "out"), "out"),
    "the source": (lambda here: None, "source"),
    "in the source": (lambda here: None, "source/out"),
    "holds the source": (lambda here: None, "../here"),
    "a link": (lambda here: (here / "out").symlink_to("source"), "out"),
    "a dangling link": (lambda here: (here / "out").symlink_to("nowhere"), "out"),
    "a file above it": (lambda here: (here / "no").write_text("mine"), "no/out"),
    "256 bytes": (lambda here: None, "x" * 256),
    "a newline": (lambda here: None, "a\nb"),
}
FILES: dict[str, tuple[Spoil, str]] = {
    "a foreign file": (lambda here: (here / "out").write_text("mine"), "out"),
    "a folder": (lambda here: (here / "out").mkdir(), "out"),
    "a link": (lambda here: (here / "out").symlink_to("source/config.json"), "out"),
    "in the source": (lambda here: None, "source/out"),
    "a weight file of the source": (lambda here: None, "source/model.safetensors"),
    "a file above it": (lambda here: (here / "no").write_text("mine"), "no/out"),
    "256 bytes": (lambda here: None, "x" * 256),
}


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize(("make", "output"), FOLDERS.values(), ids=FOLDERS)
def test_an_output_folder(source: Path, make: Spoil, output: str, flags: tuple[str, ...]) -> None:
    make(source.parent)
    check_refused(source.parent, *CONVERT[:-1], output, *flags)


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["", "overwrite"])
@pytest.mark.parametrize("command", ["probe source --no-cache", "plan source --layers 3"])
@pytest.mark.parametrize(("make", "output"), FILES.values(), ids=FILES)
def test_an_output_file(source: Path, make: Spoil, output: str, command: str, flags: tuple[str, ...]) -> None:
    make(source.parent)
    check_refused(source.parent, *command.split(), "-o", output, *flags)


def test_an_output_of_ours(source: Path) -> None:
    """An empty folder is used; what is ours is replaced when told to."""
    here = source.parent
    (here / "out").mkdir()
    assert run(here, *CONVERT).code == 0
    check_refused(here, *CONVERT)
    assert run(here, *"convert source --layers 4 -o out --overwrite".split()).code == 0
    assert json.loads((here / "out/layerprune/plan.json").read_text())["drop"] == [4]
    assert sorted(path.name for path in here.iterdir()) == ["out", "source"]


def test_a_plan_replaces_only_a_plan(here: Path, statistics: Path) -> None:
    shutil.copy(statistics, here / "s.safetensors")
    check_refused(here, *"plan mini --layers 5 --overwrite -o s.safetensors".split())
    assert run(here, *"plan mini --layers 5 -o plan.json".split()).code == 0
    check_refused(here, *"plan mini --layers 6 -o plan.json".split())
    check_refused(here, *"probe mini --samples 2 --overwrite -o plan.json".split())
    assert run(here, *"plan mini --layers 6 --overwrite -o plan.json".split()).code == 0
    assert json.loads((here / "plan.json").read_text())["drop"] == [6]


@pytest.mark.parametrize("name", ["with space", "emoji 😀", 'quote\'s "both"', "-dash", "x" * 255, "$HOME;ls"])
def test_names(source: Path, name: str) -> None:
    before = snapshot(source.parent)
    assert run(source.parent, *CONVERT[:-2], f"--output={name}").code == 0
    after = snapshot(source.parent)
    assert {path: state for path, state in after.items() if path.split("/")[0] != name} == before
    assert f"{name}/model.safetensors" in after


@pytest.mark.parametrize(
    ("options", "drops"),
    [
        *(("--budget 25%", 3), ("--budget 0.25", 3), ("--budget .1", 1), ("--budget 25% --budget-of all", 4), ("--num-layers 12", 12)),
        *(("--protect none --num-layers 13", 13), ("--method interlace --budget 0.4", 5)),
    ],
)
def test_budgets_that_are_right(here: Path, statistics: Path, options: str, drops: int) -> None:
    assert run(here, "plan", statistics, *options.split(), "-o", "plan.json").code == 0
    assert len(json.loads((here / "plan.json").read_text())["drop"]) == drops
