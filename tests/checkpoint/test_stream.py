"""Streaming from the Hub: the bytes of a local rewrite, one source shard on the disk at a time, and nothing fetched twice."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import pruned, read_model
from tests.checkpoint.poor_file_system import refusing
from tests.checkpoint.streaming import DROP, SHARDS, fetched_whole, interrupted, left, open_to_stream, publish_anew, records, stream
from tests.hub.loopback import LoopbackHub
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


@pytest.mark.parametrize("drop", [DROP, (1,), (0, 1, 2)])
def test_the_bytes_are_those_of_the_downloaded_checkpoint(publish: Any, tmp_path: Path, folder: Path, drop: tuple[int, ...]) -> None:
    name, repo = publish()
    streamed = stream(name, tmp_path / "streamed", drop)
    found = resolve(name)
    checkpoint = Checkpoint.open(found.path, found.id, found.commit)
    assert rewrite(checkpoint, make_plan(checkpoint, drop), tmp_path / "local") == streamed
    assert records(tmp_path / "streamed") == records(tmp_path / "local")
    keep = [layer for layer in range(6) if layer not in drop]
    assert read_model(tmp_path / "streamed") == pruned(read_model(folder), keep)
    assert left(tmp_path) == ["local", "streamed"] and streamed.source.commit == repo.refs["main"]


def test_one_source_shard_lies_on_the_disk_at_a_time(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path) -> None:
    sizes, seen = {name: (folder / name).stat().st_size for name in SHARDS}, []

    def look(path: str, ranges: str) -> None:
        """Before a shard is sent: what lies there already."""
        if path in sizes and not ranges:
            seen.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))

    name, _ = publish(on_file=look)
    checkpoint, remote = open_to_stream(name)
    assert remote
    during: list[int] = []
    rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out", progress=lambda count: during.append(_disk(tmp_path)))
    output = _disk(tmp_path)
    assert len(seen) == 4 and max(during) <= output + max(sizes.values())
    assert max(during) < output + sum(sizes.values()) - min(sizes.values())
    written = 0
    for before, size in zip(seen, [0, *((tmp_path / "out" / shard).stat().st_size for shard in SHARDS[:3])], strict=True):
        written += size
        assert before <= written + 4_000  # finished shards and their records: no source shard is left


def _disk(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


KILLED = """
import sys
from pathlib import Path
from hf_layerprune.checkpoint import shards
from tests.checkpoint.streaming import DROP, make_plan, open_to_stream, rewrite
shards.FIRST_BYTES, shards.SAMPLE_BYTES = 1024, 0
checkpoint, repo = open_to_stream(sys.argv[1])
rewrite(checkpoint, make_plan(checkpoint, DROP), Path(sys.argv[2]))
"""


def run_killed(hub: LoopbackHub, repo: Repo, name: str, output: Path, home: Path, victim: str) -> None:
    """Stream in a process of its own that is killed when it asks for the whole of a shard."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", KILLED, name, str(output)], env=environment, stderr=subprocess.DEVNULL)

    def kill(path: str, ranges: str) -> None:
        if path == victim and not ranges:
            process.send_signal(signal.SIGKILL)
            process.wait()

    repo.on_file = kill
    assert process.wait(60) == -signal.SIGKILL
    repo.on_file = None


@pytest.mark.parametrize("victim", SHARDS)
def test_killed_and_resumed(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path, victim: str) -> None:
    name, repo = publish()
    place = tmp_path / "place"
    place.mkdir()
    run_killed(own_hub, repo, name, place / "out", tmp_path / "home", victim)
    assert not (place / "out").exists() and all(name.startswith(".layerprune-") for name in left(place))
    (staging,) = place.glob("*.staging")
    done = SHARDS.index(victim)
    assert sorted(path.name for path in staging.glob("*.safetensors")) == list(SHARDS[:done])
    own_hub.sent.clear()
    assert stream(name, place / "out") == stream(name, tmp_path / "anew")
    assert fetched_whole(own_hub, folder)[: 4 - done] == list(SHARDS[done:])
    assert len(fetched_whole(own_hub, folder)) == 4 - done + 4  # and four for the one made anew
    assert records(place / "out") == records(tmp_path / "anew") and left(place) == ["out"]


def test_a_wrong_sha256_is_refused_and_removed_and_the_rest_kept(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    staging = interrupted(name, repo, tmp_path / "out")
    assert sorted(path.name for path in staging.rglob("*.safetensors")) == list(SHARDS[:2])
    assert not (tmp_path / "out").exists()
    own_hub.sent.clear()
    stream(name, tmp_path / "out")
    assert fetched_whole(own_hub, folder) == list(SHARDS[2:]) and left(tmp_path) == ["out"]


def test_a_finished_shard_is_proved_before_it_is_used(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    staging = interrupted(name, repo, tmp_path / "out")
    with (staging / SHARDS[0]).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    (staging / "tokenizer.json").write_text("stale")
    (staging / "model-00009-of-00009.safetensors").write_text("stale")
    (staging / "layerprune").symlink_to(tmp_path)
    own_hub.sent.clear()
    manifest = stream(name, tmp_path / "out")
    assert fetched_whole(own_hub, folder) == [SHARDS[0], *SHARDS[2:]]
    assert not {"tokenizer.json", "model-00009-of-00009.safetensors"} & set(manifest.files)
    assert {path.name for path in (tmp_path / "out").rglob("*")} >= {"plan.json"} and not (tmp_path / "out/tokenizer.json").exists()


def test_dead_at_the_very_end(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = publish()
    with monkeypatch.context() as patch:
        patch.setattr("hf_layerprune.checkpoint.staging._commit", refusing(errno.EIO))
        with pytest.raises(CheckpointError, match="writing it failed: Input/output error; what was finished is kept for the next run"):
            stream(name, tmp_path / "out")
    own_hub.sent.clear()
    stream(name, tmp_path / "out")
    assert fetched_whole(own_hub, folder) == [] and left(tmp_path) == ["out"]


def test_dead_while_it_takes_up_again(
    own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, repo = publish()
    staging = interrupted(name, repo, tmp_path / "out")
    (staging / "tokenizer.json").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *places, **options: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(CheckpointError, match="what was finished is kept for the next run"):
            stream(name, tmp_path / "out")
    own_hub.sent.clear()
    stream(name, tmp_path / "out")
    assert fetched_whole(own_hub, folder) == list(SHARDS[2:]) and left(tmp_path) == ["out"]


def test_other_inputs_clear_it(own_hub: LoopbackHub, publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    interrupted(name, repo, tmp_path / "out")
    own_hub.sent.clear()
    stream(name, tmp_path / "out", (4,))
    assert fetched_whole(own_hub, folder) == list(SHARDS) and left(tmp_path) == ["out"]


def test_a_rewrite_without_streaming_clears_it(publish: Any, tmp_path: Path, folder: Path) -> None:
    name, repo = publish()
    interrupted(name, repo, tmp_path / "out")
    checkpoint = Checkpoint.open(folder, "x")
    rewrite(checkpoint, make_plan(checkpoint, DROP), tmp_path / "out")
    assert left(tmp_path) == ["out"]


def test_it_replaces_what_is_to_be_overwritten(publish: Any, tmp_path: Path) -> None:
    name, _ = publish()
    stream(name, tmp_path / "out", (4,))
    with pytest.raises(CheckpointError, match=r"exists. Choose another name, or add --overwrite"):
        stream(name, tmp_path / "out")
    assert len(stream(name, tmp_path / "out", overwrite=True).tensors) and left(tmp_path) == ["out"]
