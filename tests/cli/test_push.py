"""`hf-layerprune push` as one types it: what it says, how it exits, and that no token is ever shown."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.hub.pushing import OTHER, REPO, TOKEN, emptied, pruned_folder, same_model
from tests.hub.state import Fault
from tests.publishing.test_push_faults import FAULTS

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def hub(account_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return emptied(account_hub)


@pytest.fixture
def folder(hub: LoopbackHub, here: Path, tmp_path: Path) -> Path:
    return pruned_folder(tmp_path).rename(here / "tiny-5L")


def test_what_it_says(hub: LoopbackHub, folder: Path, run_here: Run) -> None:
    done = run_here("push", "tiny-5L", REPO)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, last = done.stdout.splitlines()
    files = len(hub.repos[REPO].files()) - 1
    assert first == f"pushed  {files} files, 0 were there; the Hub's list equals the folder's"
    assert second == f"        {hub.url}/{REPO} @ {hub.repos[REPO].refs['main'][:7]}" and last == f"next    hf-layerprune verify {REPO}"
    assert run_here("verify", REPO).returncode == 0
    again = run_here("push", "tiny-5L", REPO)
    assert again.stdout.splitlines()[0] == f"everything is there already: {files} files, nothing was sent"
    assert run_here("push", "tiny-5L", REPO, "-q").stdout == ""


def test_for_machines(hub: LoopbackHub, folder: Path, run_here: Run) -> None:
    (folder / "layerprune" / "answers.jsonl").write_text("")
    done = run_here("push", "tiny-5L", REPO, "--json", "--private", "--commit-message", "Shorter")
    said = json.loads(done.stdout)
    assert done.stderr == "note: not published: 'layerprune/answers.jsonl'\n"
    assert said["repo"] == REPO and said["created"] and said["commit"] == hub.repos[REPO].refs["main"] and not said["pull_request"]
    assert said["left"] == ["layerprune/answers.jsonl"] and "config.json" in said["uploaded"] and hub.repos[REPO].private
    assert hub.repos[REPO].summaries == ["Shorter"]


def test_a_pull_request(hub: LoopbackHub, folder: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO)
    monkeypatch.setenv("HF_TOKEN", OTHER)
    refused = run_here("push", "tiny-5L", REPO)
    assert refused.returncode == 1 and refused.stderr.endswith("or propose the change to its owner with --create-pr.\n")
    done = run_here("push", "tiny-5L", REPO, "--create-pr")
    assert done.returncode == 0
    page, last = done.stdout.splitlines()[1:]
    assert page.strip().startswith(f"{hub.url}/{REPO}/discussions/1 @ ")
    assert last == f"next    hf-layerprune push tiny-5L {REPO} --revision refs/pr/1, to change the pull request"
    assert run_here("push", "tiny-5L", REPO, "--revision", "refs/pr/1").returncode == 0 and same_model(hub, folder, ref="refs/pr/1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny-5L", REPO, "--create-pr", "--revision", "x"), "--create-pr opens a pull request for main"),
        (("tiny-5L", "tiny"), "'tiny' is not a valid id of a repository on the Hub"),
        (("tiny-5L", REPO, "--token", TOKEN), "No such option"),  # it would stand in the process list
    ],
)
def test_usage(hub: LoopbackHub, folder: Path, run_here: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run_here("push", *arguments)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and hub.repos == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /api/whoami", 401, {"X-Error-Message": f"no {TOKEN}"}),
        Fault("POST .*/commit/", 403, {"X-Error-Message": f"no {TOKEN}"}),
        Fault("PUT /lfs/", 403),
        Fault("PUT /lfs/", 500, times=99),
        Fault("POST .*/commit/"),
    ],
    ids=["401", "403", "upload", "500", "dropped"],
)
@pytest.mark.parametrize("debug", [False, True])
def test_no_token_is_shown(
    hub: LoopbackHub, folder: Path, run_here: Run, fault: Fault, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hub.faults = [Fault(**vars(fault))]
    done = run_here("push", "tiny-5L", REPO, *(["--debug"] if debug else []))
    assert (done.returncode, done.stdout) == (1, "")
    last = [line for line in done.stderr.splitlines() if line][-1]
    assert last.startswith(f"error: {REPO}: ") and ("Traceback" in done.stderr) == debug
    assert TOKEN not in done.stderr and "signed" not in done.stderr
    assert not [path for path in here_files(folder) if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["401-token", "429", "dropped-commit"])
def test_a_hub_that_fails_and_the_same_command_again(hub: LoopbackHub, folder: Path, run_here: Run, name: str) -> None:
    hub.faults = [Fault(**vars(FAULTS[name][0]))]
    done = run_here("push", "tiny-5L", REPO, "-q")
    assert (done.returncode, done.stdout) == (1, "")
    lines = [
        line for line in done.stderr.splitlines() if line and not re.search("Retrying in|thrown while requesting|^Rate limited", line)
    ]  # that is huggingface_hub
    assert len(lines) == 1 and re.search(FAULTS[name][1], lines[0]) and lines[0].startswith(f"error: {REPO}: ")
    hub.faults.clear()
    again = run_here("push", "tiny-5L", REPO, "-q")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "") and same_model(hub, folder)


def here_files(folder: Path) -> list[Path]:
    return [path for path in folder.parent.rglob("*") if path.is_file()]


@pytest.fixture
def process(hub: LoopbackHub, here: Path, environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A function that starts the command in a process of its own, which knows the Hub."""
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "hf_layerprune", "push", "tiny-5L", REPO]
    options = {"cwd": here, "env": environment | network | {"HF_TOKEN": TOKEN}, "text": True}
    return lambda *more: subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_a_retry_is_told_without_its_signed_address(hub: LoopbackHub, folder: Path, process: Callable[..., subprocess.Popen[str]]) -> None:
    hub.faults = [Fault("PUT /lfs/", 500)]
    started = process()
    _, said = started.communicate(timeout=300)
    assert started.returncode == 0 and "Retrying in 1s" in said and "/lfs/" in said
    assert "?***" in said and "signed" not in said and TOKEN not in said


def test_interrupted(hub: LoopbackHub, folder: Path, process: Callable[..., subprocess.Popen[str]]) -> None:
    """Ctrl-C while the second weight file is sent: the first is kept, and not sent again."""
    started = process()

    def interrupt() -> None:
        started.send_signal(signal.SIGINT)

    hub.faults = [Fault("PUT /lfs/", before=lambda: None), Fault("PUT /lfs/", before=interrupt), Fault("POST .*/commit/", slow=1.0)]
    _, said = started.communicate(timeout=300)
    assert started.returncode == 130 and TOKEN not in said
    assert said.endswith("interrupted: what was sent is kept; run the same command again and only the rest is sent.\n")
    kept = {*hub.objects}
    assert kept and hub.repos[REPO].summaries == []
    hub.faults.clear()
    hub.puts.clear()
    again = process()
    assert again.communicate(timeout=300) and again.returncode == 0
    assert not kept & {*hub.puts} and len(hub.repos[REPO].summaries) == 1
    assert content(folder).items() <= hub.repos[REPO].files().items()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("where", "skip"), [("GET .*/tree/", 1), ("POST .*/commit/", 0)], ids=["when it is looked at", "when it is made"])
def test_an_interrupted_pull_request_is_named_or_pointed_out(
    hub: LoopbackHub, folder: Path, process: Callable[..., subprocess.Popen[str]], number: signal.Signals, code: int, where: str, skip: int
) -> None:
    """The pull request is there: it is named once its answer arrived, else pointed out; it is gone on with, and no second one is opened."""
    hub.add(REPO)
    started = process("--create-pr", "-q")

    def interrupt() -> None:
        started.send_signal(number)
        time.sleep(0.5)

    hub.faults = [Fault(where, before=interrupt, skip=skip)] if skip else [Fault(where, after=interrupt)]
    _, said = started.communicate(timeout=300)
    named = "note: refs/pr/1 was opened: go on with --revision refs/pr/1 in place of --create-pr.\n"
    if not skip:
        again_all = "Push again: what was sent is kept, and only the rest is sent."
        named = f"note: {again_all} If {REPO} has a new pull request, go on with --revision refs/pr/N in place of --create-pr.\n"
    assert (started.returncode, said.replace("\n\n", "\n")) == (code, named + ("interrupted: what was sent is kept.\n" * (code == 130)))
    hub.faults.clear()
    again = process("--revision", "refs/pr/1")
    again.communicate(timeout=300)
    assert again.returncode == 0 and [*hub.repos[REPO].refs] == ["main", "refs/pr/1"]
    assert content(folder).items() <= hub.repos[REPO].files("refs/pr/1").items()
