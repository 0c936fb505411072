"""Streaming from a server that lies, drops or moves on, and what is expected of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint.source import Place, resolve
from hf_layerprune.errors import CheckpointError, LayerPruneError, SourceError, UsageError
from tests.checkpoint.independent import pruned, read_model, snapshot
from tests.checkpoint.streaming import DROP, SHARDS, content, left, open_to_stream, publish_anew, stream
from tests.hub.loopback import LoopbackHub, git_id
from tests.hub.state import Repo
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in four shards. Read only."""
    return make_checkpoint(tmp_path_factory.mktemp("streamed") / "source", tied=False, shards=4)


@pytest.fixture(autouse=True)
def headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no shard is small enough to be read whole for its header: what is fetched can be counted."""
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.FIRST_BYTES", 1024)
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.SAMPLE_BYTES", 0)


@pytest.fixture
def publish(own_hub: LoopbackHub, folder: Path) -> Callable[..., tuple[str, Repo]]:
    """A function that makes the checkpoint a repository of its own, which fails as the keywords say."""
    return partial(publish_anew, own_hub, folder)


def test_shards_in_a_folder_of_a_subfolder(own_hub: LoopbackHub, tmp_path: Path, folder: Path) -> None:
    """Shards may lie anywhere below config.json."""
    files = content(folder)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"] = {tensor: f"weights/{shard}" for tensor, shard in index["weight_map"].items()}
    files = {f"weights/{name}" if name in SHARDS else name: data for name, data in files.items()}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    own_hub.repos["you/deep"] = Repo()
    own_hub.repos["you/deep"].push({f"last/{name}": data for name, data in files.items()})
    checkpoint, remote = open_to_stream("you/deep", Place(subfolder="last"))
    assert remote
    rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    assert read_model(tmp_path / "out") == pruned(read_model(folder), [0, 1, 4, 5])


def test_weights_outside_lfs_are_proved_by_their_git_id(
    publish: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hub.loopback.is_lfs", lambda path: False)
    name, repo = publish()
    checkpoint, remote = open_to_stream(name)
    good = repo.commits[repo.refs["main"]][SHARDS[0]]
    repo.served[SHARDS[0]] = good[:-1] + bytes([good[-1] ^ 1])
    assert remote
    with pytest.raises(CheckpointError, match=f"{name}/{SHARDS[0]}: fetched .*, expected .* with git id {git_id(good)[:12]}"):
        rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    repo.served.clear()
    rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    assert read_model(tmp_path / "out") == pruned(read_model(folder), [0, 1, 4, 5])


def test_another_header_than_was_read(publish: Any, tmp_path: Path) -> None:
    """A server that tells of other tensors at first than it sends later."""
    name, _ = publish()
    checkpoint, remote = open_to_stream(name)
    assert remote
    told = dict(checkpoint.shards)
    told[SHARDS[0]] = replace(told[SHARDS[0]], metadata={"format": "np"})
    with pytest.raises(CheckpointError, match=f"{name}/{SHARDS[0]}: its header is another one than was read before. It was removed"):
        rewrite(replace(checkpoint, shards=told), make_plan(checkpoint, DROP), tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))


SIZES = {"short": lambda content: content[:-1], "long": lambda content: content + b"x", "empty": lambda content: b""}


@pytest.mark.parametrize("changed", SIZES.values(), ids=SIZES)
def test_a_file_of_another_size_than_listed(publish: Any, tmp_path: Path, changed: Callable[[bytes], bytes]) -> None:
    """Refused when the headers are read, or, where it changes afterwards, when it is fetched."""
    name, repo = publish()
    checkpoint, remote = open_to_stream(name)
    repo.served[SHARDS[1]] = changed(repo.commits[repo.refs["main"]][SHARDS[1]])
    assert remote
    with pytest.raises(LayerPruneError, match=rf"{name}/{SHARDS[1]}: fetched .*, expected [\d,]+ bytes with sha256 \w+ as"):
        rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    (staging,) = tmp_path.glob("*.staging")
    assert [path.name for path in staging.rglob("*.safetensors")] == [SHARDS[0]]
    with pytest.raises(LayerPruneError, match=f"{name}/{SHARDS[1]}"):
        open_to_stream(name)


def test_dropped_connections_are_taken_up_again(publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    checkpoint, remote = open_to_stream(name)
    repo.drop_at, repo.drops = 10_000, 5
    assert remote
    rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    assert read_model(tmp_path / "out") == pruned(read_model(folder), [0, 1, 4, 5]) and repo.drops == 0


def test_a_connection_that_always_drops_leaves_what_was_done(publish: Any, tmp_path: Path) -> None:
    name, repo = publish()
    checkpoint, remote = open_to_stream(name)
    assert remote
    repo.on_file = lambda path, ranges: setattr(repo, "drop_at", 0 if path == SHARDS[1] else None)
    repo.drops = 99
    with pytest.raises(SourceError, match=f"{name}: fetching it failed: .*Run again"):
        rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == [SHARDS[0]]


def test_the_repository_moves_on_meanwhile(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    first = repo.refs["main"]
    other = content(make_checkpoint(tmp_path / "other", tied=False, shards=4, seed=5))
    repo.on_file = lambda path, ranges: repo.push(other) if path == SHARDS[1] else None
    manifest = stream(name, tmp_path / "out")
    assert manifest.source.commit == first != repo.refs["main"]
    assert read_model(tmp_path / "out") == pruned(read_model(folder), [0, 1, 4, 5])


def test_what_is_expected_must_come_out(publish: Any, tmp_path: Path) -> None:
    name, _ = publish()
    expected = stream(name, tmp_path / "first")
    assert stream(name, tmp_path / "second", expected=expected) == expected
    other = stream(name, tmp_path / "other", (1, 4)).files
    first = min(name for name in SHARDS if other[name] != expected.files[name])
    with pytest.raises(CheckpointError, match=rf"{first}: rebuilt with sha256 \w+, expected \w+ as published. Nothing was written"):
        stream(name, tmp_path / "third", (1, 4), expected=expected)
    assert not [path for path in tmp_path.rglob("*.safetensors") if path.parent.name not in ("first", "second", "other")]


def test_usage(publish: Any, tmp_path: Path, folder: Path) -> None:
    name, _ = publish()
    with pytest.raises(UsageError, match="--stream keeps the source's shards"):
        stream(name, tmp_path / "out", max_shard_size=1000)
    with pytest.raises(UsageError, match=r"--stream is for a Hub id, and .* is on this disk"):
        open_to_stream(str(folder))
    with pytest.raises(UsageError, match="--stream fetches weights and --local-files-only forbids it"):
        open_to_stream(name, Place(local_files_only=True))
    resolve(name)
    assert open_to_stream(name)[1] is None and open_to_stream(name, Place(local_files_only=True))[1] is None
    assert left(tmp_path) == [] and snapshot(folder)
