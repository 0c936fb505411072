"""A repository's listing, and its files read by ranges: never more than was listed, never another file than was listed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hf_layerprune.errors import CheckpointError, LayerPruneError, SourceError
from hf_layerprune.hub.listing import RemoteRepo
from tests.hub.loopback import LoopbackHub, listed

TOKEN = "hf_verysecrettoken1234"
WEIGHTS = "model.safetensors"
CONTENT = random.Random(0).randbytes(1_000_000)
Open = Callable[..., RemoteRepo]


@pytest.fixture
def opened(own_hub: LoopbackHub) -> Open:
    """A function that publishes a file and opens its repository; keywords say how it fails."""

    def publish(content: bytes = CONTENT, **faults: Any) -> RemoteRepo:
        name, repo = own_hub.publish({WEIGHTS: content}, **faults)
        return RemoteRepo(name, repo.refs["main"], token=faults.get("token"))

    return publish


def test_a_range(own_hub: LoopbackHub, opened: Open) -> None:
    repo = opened()
    assert repo.read(WEIGHTS, 10, 200_000) == CONTENT[10:200_000] and repo.read(WEIGHTS, 999_999, 1_000_000) == CONTENT[-1:]
    assert repo.read(WEIGHTS, 7, 7) == b""
    assert (repo.requests, repo.received) == (2, 199_991) == (len(own_hub.sent), sum(sent for _, _, sent in own_hub.sent))


def test_a_server_that_ignores_ranges_is_not_read_to_the_end(own_hub: LoopbackHub, opened: Open) -> None:
    repo = opened(bytes(30_000_000), ignore_range=True)
    assert repo.read(WEIGHTS, 0, 1000) == bytes(1000)
    with pytest.raises(CheckpointError, match=rf"{repo.id}/{WEIGHTS}: asked for bytes from 5,000 on, the server sent others .status 200"):
        repo.read(WEIGHTS, 5000, 6000)
    assert repo.received < 2_000_000 and own_hub.sent[0][2] == 30_000_000


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another ETag": ({"new_etags": True}, r"is sent with the ETag '0+\d+', expected its sha256 \w{64}"),
    "shorter than listed": ({"served": {WEIGHTS: CONTENT[:-1]}}, "is 999,999 bytes, expected 1,000,000 as the repository lists it"),
    "longer than listed": ({"served": {WEIGHTS: CONTENT + b"x"}}, "is 1,000,001 bytes, expected 1,000,000 as the repository lists it"),
    "empty": ({"served": {WEIGHTS: b""}}, "ends before byte 0, expected 1,000,000 bytes as listed"),
}


@pytest.mark.parametrize(("faults", "message"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_is_not_what_was_listed(opened: Open, faults: dict[str, Any], message: str) -> None:
    repo = opened(**faults)
    with pytest.raises(LayerPruneError, match=message) as caught:
        repo.read(WEIGHTS, 0, 1000)
    assert "\n" not in str(caught.value) and repo.id in str(caught.value)


def test_a_dropped_connection_is_asked_again(own_hub: LoopbackHub, opened: Open) -> None:
    assert opened(drop_at=50_000, drops=3).read(WEIGHTS, 0, 300_000) == CONTENT[:300_000]
    assert [ranges for _, ranges, _ in own_hub.sent] == ["bytes=0-299999"] * 4


def test_a_connection_that_always_drops(opened: Open) -> None:
    repo = opened(drop_at=0, drops=99)
    with pytest.raises(SourceError, match=rf"^{repo.id}: fetching it failed: .*Run again: what was fetched is kept\.$"):
        repo.read(WEIGHTS, 0, 1000)


def test_a_slow_server_is_waited_for(opened: Open) -> None:
    assert opened(slow=0.05).read(WEIGHTS, 0, 1000) == CONTENT[:1000]


def test_a_silent_server_is_given_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    with pytest.raises(SourceError, match=r"fetching it failed: .*Run again"):
        opened(slow=20.0).read(WEIGHTS, 0, 1000)


@pytest.mark.parametrize("changed", [{"size": -1}, {"size": "9"}, {"path": "a/../b"}, {"oid": "../x"}])
def test_a_listing_that_no_repository_has(opened: Open, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> None:
    repo = opened()
    monkeypatch.setattr("tests.hub.loopback.listed", lambda path, content: {**listed(path, content), "lfs": None, **changed})
    with pytest.raises(CheckpointError, match=rf"'{repo.id}/.*': the repository lists it as .*, which is no file"):
        repo.files  # noqa: B018


def test_more_files_than_a_model_has(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.hub.listing.MAX_FILES", 0)
    with pytest.raises(SourceError, match="has more than 0 files, which is no model"):
        opened().files  # noqa: B018


def test_busy_and_ill_servers_are_asked_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    repo = opened(refusals=[(429, {"Retry-After": "7"}), (500, {}), (503, {})])
    assert repo.read(WEIGHTS, 0, 1000) == CONTENT[:1000] and repo.requests == 1
    assert 8.0 in waited  # one second more than the Hub asked for


@pytest.mark.parametrize(
    ("status", "message"), [(429, r"asks for fewer requests \(429\)\. Wait 7 seconds"), (500, "answered with error 500"), (403, "refuses")]
)
def test_a_server_that_stays_so(opened: Open, monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    repo = opened(token=TOKEN, refusals=[(status, {"Retry-After": "7"})] * 50)
    with pytest.raises(SourceError, match=rf"{repo.id}: the Hub {message}") as caught:
        repo.read(WEIGHTS, 0, 1000)
    assert TOKEN not in str(caught.value) + repr(repo) and "\n" not in str(caught.value)
