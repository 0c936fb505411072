"""What lies in the Hub's cache is what the Hub lists, also where a server sent something else of the same size."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from streaming import publish_anew

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.errors import SourceError
from hf_layerprune.hub import download

WEIGHTS = "model.safetensors"
DAMAGE = {
    "a byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "shorter": lambda content: content[:-5],
    "longer": lambda content: content + b"\0",
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where it is remembered what was proved."""
    monkeypatch.setattr(download, "kept_folder", lambda kind: tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "LICENSE"])
def test_damaged_on_the_way(own_hub: LoopbackHub, source: Path, name: str, damage: str) -> None:
    """Refused by name for as long as the server sends it; the next run fetches it anew, and is none the worse."""
    model, repo = publish_anew(own_hub, source)
    repo.served[name] = DAMAGE[damage]((source / name).read_bytes())
    for _ in range(2):
        with pytest.raises(SourceError, match=f"{model}") as raised:
            resolve(model)
        assert "\n" not in str(raised.value)
        if damage == "a byte":
            message = "what lies in the Hub's cache is not the file that the Hub lists. The server or the connection is at fault: run again"
            assert f"{model}/{name}: {message}" in str(raised.value)
    repo.served.clear()
    found = resolve(model)
    assert (found.path / name).read_bytes() == (source / name).read_bytes()
    assert Checkpoint.open(found.path, model).facts.layers == 6


def test_damaged_once(own_hub: LoopbackHub, source: Path) -> None:
    model, repo = publish_anew(own_hub, source)
    repo.served[WEIGHTS] = DAMAGE["a byte"]((source / WEIGHTS).read_bytes())

    def mend(path: str, ranges: str) -> None:
        if own_hub.sent and any(sent == WEIGHTS for sent, _, _ in own_hub.sent):
            repo.served.clear()

    repo.on_file = mend
    found = resolve(model)
    assert (found.path / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert [path for path, _, _ in own_hub.sent].count(WEIGHTS) == 2


def test_damaged_in_the_cache(own_hub: LoopbackHub, source: Path) -> None:
    """By whatever: it is noticed because the file is another one than was proved. Offline it can only be said."""
    model, _ = publish_anew(own_hub, source)
    weights = resolve(model).path / WEIGHTS
    right = weights.read_bytes()
    weights.resolve().write_bytes(DAMAGE["a byte"](right))
    with pytest.raises(SourceError, match=rf"{model}/{WEIGHTS}: what lies in .* Run again online, to fetch it anew\.$"):
        resolve(model, local_files_only=True)
    assert (resolve(model).path / WEIGHTS).read_bytes() == right


def test_in_a_subfolder(own_hub: LoopbackHub, source: Path, tmp_path: Path) -> None:
    source.rename(tmp_path / "inner")
    (tmp_path / "outer").mkdir()
    source = (tmp_path / "inner").rename(tmp_path / "outer" / "inner")
    model, repo = publish_anew(own_hub, tmp_path / "outer")
    repo.served[f"inner/{WEIGHTS}"] = DAMAGE["a byte"]((source / WEIGHTS).read_bytes())
    with pytest.raises(SourceError, match=f"{model}/inner/{WEIGHTS}: what lies in"):
        resolve(model, subfolder="inner")


def test_a_large_file_is_read_once(own_hub: LoopbackHub, source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = publish_anew(own_hub, source)
    resolve(model)
    [note] = [path for path in kept.iterdir() if path.is_file()]
    read: list[Path] = []
    monkeypatch.setattr(download, "record_of", lambda path: read.append(path) or pytest.fail("read again"))
    resolve(model)
    note.unlink()
    with pytest.raises(pytest.fail.Exception, match="read again"):
        resolve(model)


def test_where_nothing_can_be_kept(own_hub: LoopbackHub, source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "kept_folder", lambda kind: kept / "not there")
    model, _ = publish_anew(own_hub, source)
    assert (resolve(model).path / WEIGHTS).is_file()
