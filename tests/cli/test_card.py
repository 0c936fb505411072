"""`hf-layerprune card`."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from hf_layerprune.cli.main import cli

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CARDS = Path(__file__).parents[2] / "cards"


@pytest.fixture
def folder(here: Path) -> Path:
    """A folder of ours without its weights and its card."""
    return shutil.copytree(CARDS / "mini-random-13L", here / "short", ignore=shutil.ignore_patterns("*.md", "*.png"))


def test_it_writes_the_card_and_says_where(run_here: Run, folder: Path) -> None:
    done = run_here("card", "short")
    assert (done.returncode, done.stdout) == (0, "wrote   short/README.md\n")
    assert "# short\n" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.glob("layerprune/*.png")) == ["layer-map-dark.png", "layer-map.png"]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CARDS.glob("mini-*/README.md")))
def test_the_commands_that_a_card_names_are_ones_that_we_have(name: str) -> None:
    text = (CARDS / name / "README.md").read_text()
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("hf-layerprune ")]
    assert {command for command, *_ in commands} >= {"verify", "evaluate"}
    for command, *arguments in commands:
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        found.make_context(command, arguments)


def test_json_holds_the_metadata(run_here: Run, folder: Path) -> None:
    done = run_here("card", "short", "--json", "--license", "mit", "-o", "card.md")
    found = json.loads(done.stdout)
    assert found["card"] == "card.md" and found["metadata"]["license"] == "mit" and found["metadata"]["library_name"] == "transformers"
    assert not (folder / "README.md").exists()


def test_an_unknown_licence_is_pointed_out(run_here: Run, folder: Path) -> None:
    (folder / "layerprune" / "source.json").unlink()
    done = run_here("card", "short")
    assert done.returncode == 0 and "--license" in done.stderr


def test_a_folder_that_is_not_ours_is_refused_in_one_line(run_here: Run, here: Path) -> None:
    (here / "other").mkdir()
    done = run_here("card", "other")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "did not make this folder" in done.stderr
    assert not list((here / "other").iterdir())


def test_a_control_that_is_none_is_refused(run_here: Run, folder: Path) -> None:
    done = run_here("card", "short", "--control", "short")
    assert done.returncode == 1 and "Leave --control out" in done.stderr and not (folder / "README.md").exists()
