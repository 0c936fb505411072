"""What tests of streaming share: a repository in four shards, and what was fetched of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import Place
from hf_layerprune.checkpoint.source import open_to_stream as open_streamed
from hf_layerprune.errors import CheckpointError
from hf_layerprune.hub.listing import RemoteRepo
from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.hub.state import Repo
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_plan

DROP = (2, 3)
SHARDS = tuple(f"model-{number:05}-of-00004.safetensors" for number in range(1, 5))


def publish_anew(hub: LoopbackHub, folder: Path, **faults: Any) -> tuple[str, Repo]:
    """Make a checkpoint a repository of its own, which fails as the keywords say."""
    return hub.publish(content(folder), **faults)


def open_to_stream(name: str, *place: Place) -> tuple[Checkpoint, RemoteRepo | None]:
    checkpoint = open_streamed(name, *place)
    return checkpoint, checkpoint.repo


def stream(name: str, output: Path, drop: tuple[int, ...] = DROP, **options: Any) -> Manifest:
    checkpoint, _ = open_to_stream(name)
    return rewrite(checkpoint, make_plan(checkpoint, drop), output, stream=True, **options)


def fetched_whole(hub: LoopbackHub, folder: Path) -> list[str]:
    """The shards that were sent from beginning to end, in order."""
    sizes = {name: (folder / name).stat().st_size for name in SHARDS}
    return [path for path, ranges, sent in hub.sent if path in sizes and not ranges and sent == sizes[path]]


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def records(folder: Path) -> dict[str, bytes]:
    return {name: hashlib.sha256(data).digest() for name, data in content(folder).items()}


def interrupted(name: str, repo: Repo, output: Path, at: str = SHARDS[2]) -> Path:
    """The staging folder of a stream that ended with an error at a shard."""
    checkpoint, remote = open_to_stream(name)
    good = repo.commits[repo.refs["main"]][at]
    repo.served[at] = good[:-1] + bytes([good[-1] ^ 1])
    assert remote
    with pytest.raises(CheckpointError, match=f"{name}/{at}: fetched .*, expected .* with sha256 .* as the repository lists it"):
        rewrite(checkpoint, make_plan(checkpoint, DROP), output)
    repo.served.clear()
    (staging,) = output.parent.glob("*.staging")
    return staging
