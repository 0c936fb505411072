"""A Hub that fails while something is pushed: one line, nothing half-published, and a second push that completes it."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_layerprune.errors import PublishError
from hf_layerprune.hub.session import time_limits
from hf_layerprune.publishing.push import Pushed
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import AGAIN, COMMIT, LISTED, REPO, TOKEN, push, whole
from tests.hub.state import Fault

PUT, YAML, INFO = "PUT /lfs/", "POST /api/validate-yaml", f"GET /api/models/{REPO}$"
HTML = b"<html>Bad Gateway</html>"
RATE = {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}

FAULTS: dict[str, tuple[Fault, str]] = {
    "401-token": (Fault("GET /api/whoami", 401), r"did not accept the token, or hides the repository from it \(401\)\. Log in "),
    "401-hidden": (Fault(COMMIT, 401, {"X-Error-Code": "RepoNotFound"}), r"\(401\)\. Log in .*, and check the name\."),
    "403": (Fault(COMMIT, 403), r"refuses this token \(403.*\)\. Use one that may write there, or propose the change with --create-pr\."),
    "404": (Fault(COMMIT, 404, {"X-Error-Code": "RepoNotFound"}), r"does not find it \(404\): it was renamed or removed"),
    "409": (Fault("POST .*create", 409), rf"another change is under way there \(409\)\. Wait a minute\. {AGAIN}"),
    "412": (Fault(COMMIT, 412), r"somebody changed it meanwhile \(412\), so nothing was published\. Look at its page, then push again\."),
    "429": (Fault(COMMIT, 429, {"Retry-After": "37"}), rf"fewer requests \(429\)\. Wait 37 seconds\. {AGAIN}"),
    "429-rate": (Fault("POST .*/preupload/", 429, RATE, times=9), rf"fewer requests \(429\)\. Wait 55 seconds\. {AGAIN}"),
    "500-upload": (Fault(PUT, 500, times=99), rf"the Hub answered with error 500\. Wait some minutes\. {AGAIN}"),
    "503-commit": (Fault(COMMIT, 503), rf"error 503\. .*{AGAIN}"),
    "dropped-upload": (Fault(PUT, times=99), rf"the connection to the Hub \(http://127\.0\.0\.1:\d+\) failed \(.*\)\. {AGAIN}"),
    "dropped-commit": (Fault(COMMIT), rf"the connection to the Hub \(.*\) failed \(.*\)\. {AGAIN}"),
    "dropped-whoami": (Fault("GET /api/whoami"), rf"the connection to the Hub \(.*\) failed \(.*\)\. {AGAIN}"),
    "batch": (Fault("POST .*/batch", 403), r"refuses this token \(403"),
    "verify": (Fault("POST /lfs/verify", 400), r"does not take it \(400.*\)\. Correct that, then push again\."),
    "yaml": (Fault(YAML, 400), r"does not take the metadata of README\.md: it does not say why\. Correct it"),
    "yaml-502": (Fault(YAML, 502, times=9, body=HTML), rf"the Hub answered with error 502\. Wait some minutes\. {AGAIN}"),
    "409-commit": (Fault(COMMIT, 409), rf"another change is under way there \(409\)\. Wait a minute\. {AGAIN}"),
    "404-batch": (Fault("POST .*/batch", 404), r"does not find it \(404\): it was renamed or removed"),
    "412-preupload": (Fault("POST .*/preupload/", 412), r"somebody changed it meanwhile \(412\), so nothing was published\."),
    "429-put": (Fault(PUT, 429, {"Retry-After": "9"}, times=99), rf"fewer requests \(429\)\. Wait 9 seconds\. {AGAIN}"),
    "401-put": (Fault(PUT, 401), r"did not accept the token, or hides the repository from it \(401\)\. Log in "),
    "500-info": (Fault(INFO, 500, times=99), rf"the Hub answered with error 500\. Wait some minutes\. {AGAIN}"),
    "yaml-502-later": (Fault(YAML, 502, times=9, skip=1, body=HTML), rf"huggingface_hub could not parse the Hub's response .*{AGAIN}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_refused_and_pushed_again(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], name: str) -> None:
    fault, message = FAULTS[name]
    hub.faults = [Fault(**vars(fault))]
    with pytest.raises(PublishError) as raised:
        pushed()
    said = str(raised.value)
    assert re.search(message, said) and said.startswith(f"{REPO}: ") and "\n" not in said
    secret = "".join(traceback.format_exception(raised.value))
    assert TOKEN not in secret
    assert REPO not in hub.repos or [*hub.repos[REPO].files()] == [".gitattributes"]
    hub.faults.clear()
    finished = {*hub.objects}
    hub.puts.clear()
    pushed()
    assert whole(hub, folder) and not finished & {*hub.puts}, "what was sent is not sent again"


def test_a_listing_that_is_refused(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed]) -> None:
    """Before anything is sent: what is there cannot be compared."""
    hub.add(REPO)
    hub.faults = [Fault(LISTED, 403, times=99)]
    with pytest.raises(PublishError, match=r"refuses this token \(403.*\)\. Use one that may write there"):
        pushed()
    assert not hub.puts and hub.repos[REPO].summaries == []
    hub.faults.clear()
    pushed()
    assert whole(hub, folder)


def test_what_was_published_stays_whole(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed]) -> None:
    """The same on a repository that holds a model already: it is the old one, whole, until it is the new one."""
    pushed()
    before = hub.repos[REPO].files()
    for name in ("403", "412", "500-upload", "dropped-commit"):
        fault, _ = FAULTS[name]
        hub.faults = [Fault(fault.where, fault.status, times=99)]
        hub.objects.clear()
        hub.repos[REPO].commits[hub.repos[REPO].refs["main"]] = {**before, "layerprune/plan.json": b"{}"}
        hub.repos[REPO].files().pop("model-00002-of-00003.safetensors")
        old = dict(hub.repos[REPO].files())
        with pytest.raises(PublishError):
            pushed()
        assert hub.repos[REPO].files() == old
        hub.faults.clear()
        pushed()
        assert whole(hub, folder)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(PUT, 500),
        Fault(PUT, 429, {"Retry-After": "1"}),
        Fault(PUT),
        Fault("POST .*/batch", 503),
        Fault("POST .*/preupload/", 429),
        Fault(PUT, slow=0.5),
    ],
    ids=["500", "429", "dropped", "batch", "preupload", "slow"],
)
def test_a_passing_fault_is_waited_for(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], fault: Fault) -> None:
    hub.faults = [Fault(**vars(fault))]
    pushed()
    assert whole(hub, folder)


def test_retry_after_is_waited_for(hub: LoopbackHub, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    hub.faults = [Fault("POST .*/preupload/", 429, {"Retry-After": "7"})]
    pushed()
    assert waits == [8.0]


@pytest.mark.parametrize("status", [0, 500, 504])
def test_after_an_answer_that_is_lost_pushing_again_finds_what_arrived(
    hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], status: int
) -> None:
    hub.faults = [Fault(COMMIT, status, late=True)]
    with pytest.raises(PublishError, match=f"{AGAIN}$"):
        pushed()
    done = pushed()
    assert done.uploaded == () and done.commit == hub.repos[REPO].refs["main"]
    assert len(hub.repos[REPO].summaries) == 1 and whole(hub, folder)


@pytest.mark.parametrize("status", [0, 500, 504])
def test_after_the_answer_to_a_pull_request_is_lost_it_can_be_gone_on_with(
    hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], status: int
) -> None:
    hub.add(REPO)
    hub.faults = [Fault(COMMIT, status, late=True)]
    with pytest.raises(PublishError, match=rf"{AGAIN} If {REPO} has a new pull request, go on with --revision refs/pr/N in place of"):
        pushed(create_pr=True)
    done = pushed(revision="refs/pr/1")
    assert done.uploaded == () and [*hub.repos[REPO].refs] == ["main", "refs/pr/1"]


def test_a_server_that_is_too_slow(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits after the client gave up: the next push finds everything there."""
    hub.add(REPO)
    hub.faults = [Fault(COMMIT, slow=1.0)]
    with monkeypatch.context() as patch:
        patch.setattr("hf_layerprune.hub.session.SEND_SECONDS", 0.4)
        patch.setattr("hf_layerprune.hub.session.ANSWER_SECONDS", 0.3)
        with pytest.raises(PublishError, match=rf"the connection to the Hub \(.*\) failed \(timed out\)\. {AGAIN}"):
            pushed()
    time.sleep(1.0)
    assert pushed().uploaded == () and whole(hub, folder) and len(hub.repos[REPO].summaries) == 1


def test_a_silent_server_is_not_waited_for_for_ever(
    hub: LoopbackHub, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import get_session

    hub.faults = [Fault("GET /api/whoami", slow=1.5)]
    monkeypatch.setattr("hf_layerprune.hub.session.ANSWER_SECONDS", 0.2)
    before = get_session().timeout
    with pytest.raises(PublishError, match=rf"the connection to the Hub \(.*\) failed \(timed out\)\. {AGAIN}"):
        pushed()
    assert get_session().timeout == before, "only a push has these limits"


def test_how_long_is_waited_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import get_session

    seen: list[tuple[float, ...]] = []

    def asked(request: Any) -> None:
        limits = request.extensions["timeout"]
        seen.append((limits["connect"], limits["read"], limits["write"]))
        raise KeyError

    with time_limits():
        client = get_session()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], asked]}
        for method, path in (("GET", "a/b"), ("POST", "a/b/preupload/main"), ("PUT", "x"), ("POST", "a/b/commit/main")):
            with pytest.raises(KeyError):
                client.request(method, f"http://127.0.0.1:9/{path}")
    assert seen == [(30, 120, 600), (30, 120, 600), (30, 600, 600), (30, 600, 600)]
    monkeypatch.setattr(client, "timeout", 7)
    with time_limits():
        assert get_session().timeout.read == 7, "somebody's own limit is kept"
    assert get_session().timeout.read == 7


def test_somebody_commits_meanwhile(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed]) -> None:
    hub.add(REPO)
    repo = hub.repos[REPO]
    hub.faults = [Fault(COMMIT, before=lambda: repo.commit("main", {**repo.files(), "theirs.txt": b"mine"}, "theirs"))]
    with pytest.raises(PublishError, match=r"somebody changed it meanwhile \(412\)"):
        pushed()
    assert {*repo.files()} == {".gitattributes", "theirs.txt"}
    pushed()
    assert repo.files()["theirs.txt"] == b"mine" and repo.summaries[0] == "theirs" and len(repo.summaries) == 2


def test_a_part_with_a_wrong_etag(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "part_size", 10_000)
    monkeypatch.setattr(hub, "wrong_tags", 1)
    with pytest.raises(PublishError, match=r"does not take it \(400.*ETag.*\)"):
        pushed()
    pushed()
    assert whole(hub, folder)


def test_what_arrived_is_compared(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that turns a bit of the first file after it took it."""
    monkeypatch.setattr(hub, "flips", 1)
    expected = r"^me/tiny-5L @ \w{7}: 'LICENSE' is 11 bytes with sha256 \w{12}, expected .* sha256 \w{12}; the Hub does not hold"
    with pytest.raises(PublishError, match=expected):
        pushed()
    assert pushed().uploaded == ("LICENSE",) and whole(hub, folder)


def test_a_record_that_is_served_wrongly(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed]) -> None:
    pushed()
    before, manifest = hub.repos[REPO].refs["main"], hub.repos[REPO].files()["layerprune/manifest.json"]
    hub.repos[REPO].served["layerprune/manifest.json"] = manifest[:-2] + b"]\n"
    with pytest.raises(PublishError, match=r"^me/tiny-5L/layerprune/manifest\.json: fetched .* as the repository lists it"):
        pushed()
    assert hub.repos[REPO].refs == {"main": before}


def test_no_network(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        PublishError, match=rf"^{REPO}: the connection to the Hub \(http://127\.0\.0\.1:9\) failed \(.*refused.*\)\. {AGAIN}$"
    ):
        push(folder, REPO, token=TOKEN)


def test_offline_mode(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match=rf"^{REPO}: offline mode is on, so nothing can be pushed\. Unset HF_HUB_OFFLINE"):
        push(folder, REPO, token=TOKEN)
