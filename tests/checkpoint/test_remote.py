"""Reading a repository on the Hub by ranges: as much as a local file tells, and never more than was listed."""

from __future__ import annotations

import json
import struct
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import FIRST_BYTES, LocalShards, RemoteShards, fingerprint, read_shards
from hf_layerprune.checkpoint.source import Place, open_without_weights, resolve
from hf_layerprune.errors import CheckpointError, SourceError
from hf_layerprune.hub.listing import RemoteRepo
from tests.checkpoint.test_fingerprint import by_definition
from tests.checkpoint.test_header import HEADERS, LENGTHS, tensor
from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.hub.state import Repo
from tests.tiny_checkpoint import make_checkpoint

WEIGHTS = "model.safetensors"


def weight_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


@pytest.fixture
def publish(own_hub: LoopbackHub) -> Callable[..., tuple[str, Repo]]:
    """A function that puts files, or a folder's, into a new repository; keywords say how it fails."""
    return lambda files, **faults: own_hub.publish(content(files) if isinstance(files, Path) else files, **faults)


def remote(name: str, repo: Repo) -> RemoteRepo:
    return RemoteRepo(name, repo.refs["main"])


def many_bytes(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


SIZES = st.sampled_from([0, 1, 100, 65_535, 65_536, 65_537, 98_304, 131_072, 196_608, 300_000]) | st.integers(0, 500_000)
FILES = st.lists(st.tuples(st.lists(SIZES, max_size=4), st.sampled_from([0, 10, 131_000, 250_000])), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_the_fingerprint_equals_the_local_one(
    own_hub: LoopbackHub, publish: Any, tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[int], int]]
) -> None:
    """Shards smaller than a block, empty ones, headers that end before, in and behind the first request."""
    folder, places = tmp_path_factory.mktemp("shards"), {}
    for number, (sizes, filling) in enumerate(files):
        header: dict[str, Any] = {"__metadata__": {"filling": "x" * filling}}
        for index, size in enumerate(sizes):
            begin = sum(sizes[:index])
            header[f"{number}.{index}"] = tensor(begin, begin + size, (size,), "U8")
            places[f"{number}.{index}"] = f"model-{number}.safetensors"
        (folder / f"model-{number}.safetensors").write_bytes(weight_file(header, many_bytes(sum(sizes))))
    if not places:
        return
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text("{}")
    for path in folder.glob("*.safetensors"):
        if path.name not in places.values():
            path.unlink()
    reader = RemoteShards(remote(*publish(folder)), folder)
    shards = read_shards(folder, reader)
    assert shards == read_shards(folder, LocalShards(folder))
    assert fingerprint({}, shards, reader) == by_definition(folder)
    asked = Counter(path for path, _, _ in own_hub.sent)
    assert asked.keys() == shards.keys() and max(asked.values()) <= 5 and sum(asked.values()) == reader.repo.requests
    assert sum(sent for _, _, sent in own_hub.sent) == reader.repo.received


def test_a_checkpoint_opens_as_the_folder_does(own_hub: LoopbackHub, publish: Any, sharded: Path) -> None:
    name, repo = publish(sharded)
    checkpoint, reading = open_without_weights(name)
    local = Checkpoint.open(sharded, "x")
    assert (checkpoint.id, checkpoint.commit, checkpoint.source.fingerprint) == (name, repo.refs["main"], local.source.fingerprint)
    assert checkpoint.size([3]) == local.size([3]) and checkpoint.tensors.keys() == local.tensors.keys()
    assert not any(span.file.exists() for span in checkpoint.tensors.values())
    assert reading and reading.files == ("config.json", "model.safetensors.index.json") and reading.headers == 3
    sent = [(path, sent) for path, _, sent in own_hub.sent]
    assert reading.bytes == sum(size for _, size in sent) and reading.requests == sum(path.endswith(".safetensors") for path, _ in sent)
    assert {path for path, _ in sent} == {*local.shards, *reading.files}  # neither tokenizer nor card nor licence
    _, again = open_without_weights(name)
    assert again and again.files == ()


def test_weights_in_the_cache_are_read_there(own_hub: LoopbackHub, publish: Any, source: Path) -> None:
    name, _ = publish(source)
    resolve(name)
    own_hub.sent.clear()
    checkpoint, reading = open_without_weights(name)
    assert reading is None and not own_hub.sent
    assert checkpoint.source.fingerprint == by_definition(source)
    assert open_without_weights(name, Place(local_files_only=True))[0] == checkpoint


def test_the_cache_alone_needs_the_weights(publish: Any, source: Path) -> None:
    name, _ = publish(source)
    open_without_weights(name)
    with pytest.raises(SourceError, match="not, or not wholly, in the cache"):
        open_without_weights(name, Place(local_files_only=True))


def test_a_large_shard_costs_four_requests(own_hub: LoopbackHub, publish: Any) -> None:
    data = many_bytes(5_000_000)
    name, repo = publish({WEIGHTS: weight_file({"a": tensor(0, len(data), (len(data),), "U8")}, data)})
    reader = RemoteShards(remote(name, repo), Path())
    dict(reader.headers([WEIGHTS], ""))
    assert (reader.repo.requests, reader.repo.received) == (4, FIRST_BYTES + 3 * 65_536)
    assert len({ranges for _, ranges, _ in own_hub.sent}) == 4


def test_one_commit_is_pinned(own_hub: LoopbackHub, publish: Any, sharded: Path, tmp_path: Path) -> None:
    name, repo = publish(sharded)
    first, other = repo.refs["main"], content(make_checkpoint(tmp_path / "other", tied=False, shards=3, seed=9))
    repo.on_tree = lambda: repo.push(other)
    checkpoint, _ = open_without_weights(name)
    assert checkpoint.commit == first != repo.refs["main"]
    assert checkpoint.source.fingerprint == by_definition(sharded)
    assert {path.split("/")[4] for path in own_hub.requests if path.startswith(f"/{name}/resolve/")} == {first}


def test_a_checkpoint_in_a_subfolder(publish: Any, source: Path) -> None:
    name, _ = publish({f"runs/7/{path}": data for path, data in content(source).items()})
    checkpoint, reading = open_without_weights(name, Place(subfolder="runs/7"))
    assert checkpoint.source.fingerprint == by_definition(source) and reading and reading.headers == 1


def headers(publish: Any, weights: bytes, **faults: Any) -> RemoteShards:
    name, repo = publish({WEIGHTS: weights}, **faults)
    reader = RemoteShards(remote(name, repo), Path())
    dict(reader.headers([WEIGHTS], ""))
    return reader


@pytest.mark.parametrize(("header", "message"), HEADERS.values(), ids=HEADERS)
def test_hostile_headers_are_refused_as_local_ones(publish: Any, header: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"you/model-\d+/{WEIGHTS}(.|\n)*{message}") as caught:
        headers(publish, weight_file(header, b"1234"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("length", "message"), LENGTHS.values(), ids=LENGTHS)
def test_an_announced_length_is_not_allocated(publish: Any, length: int, message: str) -> None:
    weights = weight_file({"a": tensor()}, b"1234", length).ljust(74, b" ")[:74]
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        headers(publish, weights)
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_all_headers_together_are_bounded(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", 400_000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the headers of all shards are more than .* which no model needs"):
        headers(publish, weight_file({"__metadata__": {"x": "y" * 700_000}}))


def test_headers_that_are_asked_for_at_once_are_bounded_too(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight headers of 900 KB, of which the rests are asked for before the first of them arrives."""
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", 3_000_000)
    files = {f"{number}.safetensors": weight_file({"__metadata__": {"x": "y" * 900_000}}) for number in range(8)}
    name, repo = publish(files, on_file=lambda path, ranges: ranges.startswith("bytes=0-") or time.sleep(0.5))
    reader = RemoteShards(remote(name, repo), Path())
    with pytest.raises(CheckpointError, match="the headers of all shards are more than"):
        dict(reader.headers(sorted(files), ""))
    assert 1_500_000 < reader.repo.received <= 3_000_000


def test_an_index_that_names_an_absent_shard(publish: Any, sharded: Path) -> None:
    files = content(sharded)
    del files["model-00002-of-00003.safetensors"]
    name, repo = publish(files)
    with pytest.raises(CheckpointError, match=rf"{name}/model-00002-of-00003.safetensors is missing at commit {repo.refs['main'][:7]}"):
        open_without_weights(name)


FOREIGN = {"adapter_config.json": "is a peft adapter", "model_index.json": "is a diffusers pipeline", "pytorch_model.bin": "holds pickled"}


@pytest.mark.parametrize(("marker", "message"), FOREIGN.items())
def test_what_is_no_model(publish: Any, source: Path, marker: str, message: str) -> None:
    name, _ = publish({"config.json": (source / "config.json").read_bytes(), marker: b"{}"})
    with pytest.raises(SourceError, match=message):
        open_without_weights(name)


def test_a_repository_without_a_config(publish: Any) -> None:
    name, _ = publish({"notes.txt": b"nothing"})
    with pytest.raises(SourceError, match=f"{name} holds no config.json, so it is no model"):
        open_without_weights(name)


def test_shards_are_read_in_parallel(publish: Any, sharded: Path) -> None:
    """No answer is sent before all three are asked for."""
    together = threading.Barrier(3)
    name, _ = publish(sharded, on_file=lambda path, ranges: ranges.startswith("bytes=0-") and together.wait(30))
    assert len(open_without_weights(name)[0].shards) == 3 and not together.broken
