"""The user's literal line, against a real server on this machine: `Qwen/Qwen3-VL-4B` does not exist, its `-Instruct` does."""

from __future__ import annotations

import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_layerprune.mini import model_path
from tests.hub.loopback import LoopbackHub, serve
from tests.hub.state import Repo

Done = subprocess.CompletedProcess[str]
LINE = ("convert", "Qwen/Qwen3-VL-4B", "--method", "mixed", "--budget", "0.25", "--samples", "1")
INSTRUCT = "Qwen/Qwen3-VL-4B-Instruct"


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """mini under the name of the real model; whatever else is asked for, the Hub answers 401, as to any stranger."""
    with serve() as server:
        server.repos[INSTRUCT] = Repo()
        server.repos[INSTRUCT].push({path.name: path.read_bytes() for path in model_path().iterdir()})
        yield server


@pytest.fixture
def run(hub: LoopbackHub, environment: dict[str, str], here: Path, tmp_path: Path) -> Callable[..., Done]:
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def call(*arguments: str, **options: object) -> Done:
        command = [sys.executable, "-m", "hf_layerprune", *arguments]
        kept = {"stdin": subprocess.DEVNULL, "capture_output": True} | options
        return subprocess.run(command, cwd=here, env=environment | network, text=True, timeout=900, **kept)  # type: ignore[call-overload,no-any-return]

    return call


def test_without_a_terminal_the_right_id_is_suggested(run: Callable[..., Done], here: Path) -> None:
    done = run(*LINE)
    assert (done.returncode, done.stdout) == (1, "")
    said = "error: Qwen/Qwen3-VL-4B is missing, private or gated; Qwen/Qwen3-VL-4B-Instruct exists: pass that, or add --yes.\n"
    assert done.stderr == said
    assert not list(here.iterdir())


def test_yes_takes_it(run: Callable[..., Done], hub: LoopbackHub, here: Path) -> None:
    done = run(*LINE, "--yes")
    assert done.returncode == 0, done.stderr
    assert "taking Qwen/Qwen3-VL-4B-Instruct" in done.stderr
    assert [path.name for path in here.iterdir()] == ["Qwen3-VL-4B-Instruct-mixed-13L"]
    assert [path for path in hub.requests if "safetensors" in path and "resolve" in path]
    assert "--against Qwen/Qwen3-VL-4B-Instruct\n" in done.stdout


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_on_a_terminal_it_is_asked_for(run: Callable[..., Done], here: Path, answer: str, code: int) -> None:
    master, terminal = pty.openpty()
    with open(master, "w") as person:
        person.write(answer)
        person.flush()
        done = run("inspect", "Qwen/Qwen3-VL-4B", stdin=terminal, capture_output=False, stdout=subprocess.PIPE, stderr=terminal)
    assert done.returncode == code
    assert done.stdout.startswith(INSTRUCT) == (code == 0)


def test_where_nothing_is_near_all_three_reasons_are_said(run: Callable[..., Done]) -> None:
    done = run("convert", "me/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("error: me/nothing is missing, private or gated")
    assert all(hint in done.stderr for hint in ("Check the name", "hf auth login", "accept its terms"))


@pytest.mark.parametrize("mistake", [("--budget", "1.5"), ("--method", "miced"), ("--max-bad", "x"), ("--layers", "99")])
def test_a_typing_mistake_costs_no_download(run: Callable[..., Done], hub: LoopbackHub, mistake: tuple[str, str]) -> None:
    assert run("convert", INSTRUCT, *mistake).returncode == 2
    assert not [path for path in hub.requests if "safetensors" in path and "resolve" in path]
