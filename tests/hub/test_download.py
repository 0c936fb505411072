"""What lies in the Hub's cache is what the Hub lists, also where a server sent something else of the same size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.errors import CheckpointError, SourceError
from hf_layerprune.hub import download
from hf_layerprune.hub.download import Cache, fetch_into
from hf_layerprune.hub.listing import RemoteRepo
from tests.hub.loopback import LoopbackHub
from tests.hub.state import Repo

WEIGHTS = "model.safetensors"
FILES = {WEIGHTS: b"weights" * 1000, "config.json": b"{}", "LICENSE": b"MIT"}
DAMAGE = {
    "a byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shorter": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where it is remembered what was proved."""
    monkeypatch.setattr(download, "kept_folder", lambda kind: tmp_path)
    return tmp_path


def fetched(name: str, repo: Repo, **options: Any) -> Path:
    return Cache(name, **options).fetch(repo.refs["main"], ["*"])


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damaged_on_the_way(own_hub: LoopbackHub, name: str, damage: str) -> None:
    """Refused by name for as long as the server sends it; the next run fetches it anew, and is none the worse."""
    model, repo = own_hub.publish(FILES)
    repo.served[name] = DAMAGE[damage](FILES[name])
    for _ in range(2):
        with pytest.raises(SourceError, match=f"{model}") as raised:
            fetched(model, repo)
        assert "\n" not in str(raised.value)
        if damage == "a byte":
            message = "what lies in the Hub's cache is not the file that the Hub lists. The server or the connection is at fault: run again"
            assert f"{model}/{name}: {message}" in str(raised.value)
    repo.served.clear()
    assert (fetched(model, repo) / name).read_bytes() == FILES[name]


def test_damaged_once(own_hub: LoopbackHub) -> None:
    model, repo = own_hub.publish(FILES)
    repo.served[WEIGHTS] = DAMAGE["a byte"](FILES[WEIGHTS])

    def mend(path: str, ranges: str) -> None:
        if any(sent == WEIGHTS for sent, _, _ in own_hub.sent):
            repo.served.clear()

    repo.on_file = mend
    assert (fetched(model, repo) / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert [path for path, _, _ in own_hub.sent].count(WEIGHTS) == 2


def test_damaged_in_the_cache(own_hub: LoopbackHub) -> None:
    """By whatever: it is noticed because the file is another one than was proved. Offline it can only be said."""
    model, repo = own_hub.publish(FILES)
    weights = fetched(model, repo) / WEIGHTS
    weights.resolve().write_bytes(DAMAGE["a byte"](FILES[WEIGHTS]))
    with pytest.raises(SourceError, match=rf"{model}/{WEIGHTS}: what lies in .* Run again online, to fetch it anew\.$"):
        fetched(model, repo, only=True)
    assert (fetched(model, repo) / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_in_a_subfolder(own_hub: LoopbackHub) -> None:
    model, repo = own_hub.publish({f"inner/{name}": content for name, content in FILES.items()})
    repo.served[f"inner/{WEIGHTS}"] = DAMAGE["a byte"](FILES[WEIGHTS])
    with pytest.raises(SourceError, match=f"{model}/inner/{WEIGHTS}: what lies in"):
        fetched(model, repo, inner="inner")


def test_a_large_file_is_read_once(own_hub: LoopbackHub, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, repo = own_hub.publish(FILES)
    fetched(model, repo)
    [note] = [path for path in kept.iterdir() if path.is_file()]
    monkeypatch.setattr(download, "file_record", lambda path: pytest.fail("read again"))
    fetched(model, repo)
    note.unlink()
    with pytest.raises(pytest.fail.Exception, match="read again"):
        fetched(model, repo)


def test_where_nothing_can_be_kept(own_hub: LoopbackHub, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "kept_folder", lambda kind: kept / "not there")
    model, repo = own_hub.publish(FILES)
    assert (fetched(model, repo) / WEIGHTS).is_file()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_download_into_a_folder_is_proved(own_hub: LoopbackHub, tmp_path: Path, damage: str) -> None:
    name, repo = own_hub.publish({f"inner/{WEIGHTS}": FILES[WEIGHTS]}, drop_at=100, drops=2)
    model = RemoteRepo(name, repo.refs["main"], inner="inner")
    assert fetch_into(tmp_path / "good", model, WEIGHTS).read_bytes() == FILES[WEIGHTS] and repo.drops == 0
    repo.served[f"inner/{WEIGHTS}"] = DAMAGE[damage](FILES[WEIGHTS])
    with pytest.raises(CheckpointError, match=rf"{name}/inner/{WEIGHTS}: fetched .* expected 7,000 bytes with sha256 \w+ as the"):
        fetch_into(tmp_path / "bad", model, WEIGHTS)
