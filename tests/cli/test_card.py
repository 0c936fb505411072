"""`hf-layerprune card`."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import hf_layerprune
from hf_layerprune.cli.main import cli
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from tests.card_commands import commands
from tests.hub.loopback import LoopbackHub, serve
from tests.hub.models import content
from tests.hub.state import Repo

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CARDS = Path(__file__).parents[2] / "cards"


@pytest.fixture
def folder(here: Path) -> Path:
    """A folder of ours without its weights and its card."""
    return shutil.copytree(CARDS / "mini-random-13L", here / "short", ignore=shutil.ignore_patterns("*.md", "*.png"))


def test_it_writes_the_card_and_says_where(run_in_process: Run, folder: Path) -> None:
    done = run_in_process("card", "short")
    assert (done.returncode, done.stdout) == (0, "wrote   short/README.md\n")
    assert "# short\n" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.glob("layerprune/*.png")) == ["layer-map-dark.png", "layer-map.png"]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CARDS.glob("mini-*/README.md")))
def test_the_commands_that_a_card_names_are_ones_that_we_have(name: str) -> None:
    text = (CARDS / name / "README.md").read_text()
    printed = [shlex.split(line)[1:] for line in commands(text)]
    assert {command for command, *_ in printed} >= {"verify", "evaluate"}
    for command, *arguments in printed:
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        found.make_context(command, arguments)


def test_json_holds_the_metadata(run_in_process: Run, folder: Path) -> None:
    done = run_in_process("card", "short", "--json", "--license", "mit", "-o", "card.md")
    found = json.loads(done.stdout)
    assert found["card"] == "card.md" and found["metadata"]["license"] == "mit" and found["metadata"]["library_name"] == "transformers"
    assert not (folder / "README.md").exists()


def test_the_pruned_model_stands_beside_the_healed_one(run_in_process: Run, here: Path) -> None:
    healed = shutil.copytree(
        CARDS / "mini-mixed-13L-interlace", here / "healed", ignore=shutil.ignore_patterns("*.md", "*.png", "pruned-*")
    )
    assert run_in_process("card", "healed").returncode == 0 and "| source | healed | control |" in (healed / "README.md").read_text()
    assert run_in_process("card", "healed", "--pruned", CARDS / "mini-mixed-13L").returncode == 0
    assert "| source | pruned | healed | control |" in (healed / "README.md").read_text()
    assert (healed / "layerprune" / "pruned-eval.json").is_file()
    refused = run_in_process("card", "healed", "--pruned", CARDS / "mini-cka-13L")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "Name another folder with --pruned" in refused.stderr


def test_an_unknown_licence_is_pointed_out(run_in_process: Run, folder: Path) -> None:
    (folder / "layerprune" / "source.json").unlink()
    done = run_in_process("card", "short")
    assert done.returncode == 0 and "--license" in done.stderr


def test_a_folder_that_is_not_ours_is_refused_in_one_line(run_in_process: Run, here: Path) -> None:
    (here / "other").mkdir()
    done = run_in_process("card", "other")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "did not make this folder" in done.stderr
    assert not list((here / "other").iterdir())


def test_a_control_that_is_none_is_refused(run_in_process: Run, folder: Path) -> None:
    done = run_in_process("card", "short", "--control", "short")
    assert done.returncode == 1 and "Name another folder with --control" in done.stderr and not (folder / "README.md").exists()


def test_missing_figures_are_pointed_out(run_in_process: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_in_process("card", "short")
    assert done.returncode == 0 and done.stderr.startswith("note: the card has no figures (layer-map.png): matplotlib draws them")
    assert "pip install matplotlib" in done.stderr and not list(folder.glob("layerprune/*.png"))


SOURCE, QUESTIONS, LESSONS = "Qwen/Tiny-VL", "me/questions", "me/lessons"
# As `hf-layerprune` is run, but that `datasets` waits five seconds after each stream, against a rare crash.
COMMAND = """
import datasets
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
from hf_layerprune.cli.main import main
main()
"""


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """mini as a model of somebody's, and two datasets of pictures."""
    pytest.importorskip("datasets")
    with serve() as hub:
        hub.repos[SOURCE] = Repo.of(content(model_path()))
        hub.datasets[QUESTIONS] = Repo.of({"train.parquet": records("evaluate", 12)})
        hub.datasets[LESSONS] = Repo.of({"train.parquet": records("heal", 16)})
        yield hub


def records(split: Any, count: int) -> bytes:
    """Questions about pictures of counting, as Parquet."""
    import pyarrow
    import pyarrow.parquet

    rows, target = [], io.BytesIO()
    for number in range(count):
        example, picture = draw_example("counting", split, number), io.BytesIO()
        example.image.save(picture, "png")
        image = {"bytes": picture.getvalue(), "path": f"{number}.png"}
        rows.append({"question": example.question, "answer": example.answer, "image": image})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target)
    return target.getvalue()


def test_the_commands_of_a_card_make_the_same_model_and_report_again(hub: LoopbackHub, tmp_path: Path) -> None:
    """A healed model of a source on the Hub, healed and asked with datasets of the Hub; then by somebody else, when all have changed."""
    commit = hub.repos[SOURCE].refs["main"]
    first, second = tmp_path / "first", tmp_path / "second"
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    package = str(Path(hf_layerprune.__file__).parents[1])

    def run(place: Path, *arguments: str) -> str:
        place.mkdir(exist_ok=True)
        environment = kept | network | {"PYTHONPATH": package, "HF_HOME": str(place / ".home")}
        command = [sys.executable, "-c", COMMAND, *arguments]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    run(first, *f"convert {SOURCE} --layers 4,9 -o short".split())
    run(first, *f"heal short --recipe interlace --data {LESSONS},count=8 --set batch_size=4 -o healed".split())
    tasks = f"--tasks {QUESTIONS} --tasks mini-math --samples 6 --scorer relaxed --max-new-tokens 16 --seed 1"
    run(first, *f"evaluate healed --against {SOURCE} {tasks}".split())
    run(first, "card", "healed")
    card = (first / "healed" / "README.md").read_text()
    questions, lessons = hub.datasets[QUESTIONS].refs["main"], hub.datasets[LESSONS].refs["main"]
    assert f"datasets:\n- {LESSONS}\n" in card and f"type: {QUESTIONS}\n" in card and f"revision: {questions}\n" in card

    hub.repos[SOURCE].push({"README.md": b"moved"})
    shutil.copytree(first / "healed" / "layerprune", second / "layerprune", ignore=shutil.ignore_patterns("*.jsonl", "*.png"))
    printed = [shlex.split(line)[1:] for line in commands(card)]
    assert [command for command, *_ in printed] == ["plan", "apply", "heal", "verify", "evaluate"]
    assert f"{LESSONS},count=8,revision={lessons}" in printed[2]
    assert printed[4][1:] == [
        *("./healed", "--against", f"{SOURCE}@{commit}", "--tasks", f"{QUESTIONS},revision={questions}", "--tasks", "mini-math"),
        *("--samples", "6", "--scorer", "relaxed", "--max-new-tokens", "16", "--seed", "1"),
    ]
    for command in printed:
        run(second, *command)
    assert json.loads((second / "plan.json").read_text()) == json.loads((second / "layerprune" / "plan.json").read_text())
    before, after = (json.loads((place / "healed" / "layerprune" / "eval.json").read_text()) for place in (first, second))
    assert before["against"]["source"]["commit"] == commit
    for report in (before, after):
        report.pop("seconds")
        assert report["model"].pop("environment") and report["against"].pop("environment")
    assert after == before
    for place in (first, second):
        assert str(tmp_path) not in "".join(path.read_text() for path in (place / "healed" / "layerprune").glob("*.json"))
