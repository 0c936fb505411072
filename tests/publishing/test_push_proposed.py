"""A pull request that was opened when something failed is named, and gone on with; so is a branch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.push import Pushed
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import AGAIN, LISTED, REPO, TOKEN, push, same_model, whole
from tests.hub.state import Fault

NAMED = r"refs/pr/1 was opened: go on with --revision refs/pr/1 in place of --create-pr\.$"


def test_an_interrupted_pull_request_is_pointed_out(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the Hub took the commit and before its answer is read."""
    from huggingface_hub import HfApi

    hub.add(REPO)
    create, said = HfApi.create_commit, list[str]()

    def interrupted(*args: object, **kwargs: object) -> None:
        create(*args, **kwargs)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "create_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            push(folder, REPO, create_pr=True, token=TOKEN, say=said.append)
    assert len(said) == 1 and re.fullmatch(rf"{AGAIN} If {REPO} has a new pull request, go on with --revision refs/pr/N in .*", said[0])
    done = push(folder, REPO, revision="refs/pr/1", token=TOKEN, say=said.append)
    assert done.uploaded == () and [*hub.repos[REPO].refs] == ["main", "refs/pr/1"]


def test_a_pull_request_that_arrived_damaged_can_be_gone_on_with(
    hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO)
    monkeypatch.setattr(hub, "flips", 1)
    with pytest.raises(PublishError, match=r"not hold what was sent\. refs/pr/1 was opened: go on with --revision refs/pr/1 in place of"):
        pushed(create_pr=True)
    assert pushed(revision="refs/pr/1").pull_request == "refs/pr/1"
    assert same_model(hub, folder, ref="refs/pr/1") and [*hub.repos[REPO].refs] == ["main", "refs/pr/1"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(LISTED, 429, {"Retry-After": "37"}, times=99, skip=1),
        Fault(LISTED, 503, times=99, skip=1),
        Fault(LISTED, 0, times=99, skip=1),
        Fault(LISTED, 403, times=99, skip=1),
    ],
    ids=["429", "503", "dropped", "403"],
)
def test_a_pull_request_that_cannot_be_looked_at_is_named(
    hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], fault: Fault
) -> None:
    hub.add(REPO)
    hub.faults = [Fault(**vars(fault))]
    with pytest.raises(PublishError, match=NAMED) as raised:
        pushed(create_pr=True)
    assert "\n" not in str(raised.value) and not re.search(AGAIN, str(raised.value))
    hub.faults.clear()
    assert pushed(revision="refs/pr/1").uploaded == () and [*hub.repos[REPO].refs] == ["main", "refs/pr/1"]


def test_of_a_branch_that_cannot_be_looked_at(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed]) -> None:
    hub.add(REPO)
    hub.faults = [Fault(LISTED, 503, times=99, skip=1)]
    with pytest.raises(PublishError, match=rf"error 503\. .*{AGAIN}"):
        pushed()
    hub.faults.clear()
    assert pushed().uploaded == () and whole(hub, folder)
