"""Verify a pruned model on the Hub: the differences that a download would show, found without its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify, verify_remote
from hf_layerprune.errors import ArtifactError, SourceError, UsageError
from tests.hub.loopback import LoopbackHub, git_id
from tests.hub.state import Files
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_plan

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def files(sharded: Path, tmp_path: Path) -> Files:
    """What is published of a pruned model in three shards."""
    checkpoint = Checkpoint.open(sharded, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (2, 3)), tmp_path / "pruned")
    found = {path.relative_to(tmp_path / "pruned").as_posix(): path for path in (tmp_path / "pruned").rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()} | {
        "README.md": b"# a card",
        ".gitattributes": b"",
        "layerprune/eval.json": b"{}",
    }


def publish(hub: LoopbackHub, files: Files, **faults: Any) -> str:
    return hub.publish(files, **faults)[0]


def local(place: Path, files: Files) -> tuple[str, ...]:
    """What verifying a download finds."""
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return verify(place).differences


def test_no_weights_are_downloaded(own_hub: LoopbackHub, files: Files) -> None:
    found = verify_remote(publish(own_hub, files))
    tensors = json.loads(files["layerprune/manifest.json"])["tensors"]
    assert (found.differences, found.files, found.tensors) == (
        (),
        len(json.loads(files["layerprune/manifest.json"])["files"]),
        len(tensors),
    )
    asked = [path for path, _, _ in own_hub.sent if path.endswith(".safetensors")]
    assert all(asked.count(path) <= 5 for path in asked)
    assert "LICENSE" in {path for path, _, _ in own_hub.sent} and "README.md" not in {path for path, _, _ in own_hub.sent}


def flipped(content: bytes, at: int = -1) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


CHANGES: dict[str, Callable[[Files], object]] = {
    "a tensor": lambda files: files.update({SHARD: flipped(files[SHARD])}),
    "a tensor, far from what the fingerprint reads": lambda files: files.update({SHARD: flipped(files[SHARD], len(files[SHARD]) // 2)}),
    "a header": lambda files: files.update({SHARD: files[SHARD].replace(b'"pt"', b'"tf"')}),
    "config.json": lambda files: files.update({"config.json": files["config.json"].replace(b"5000000", b"5000001")}),
    "a side file of one size": lambda files: files.update({"LICENSE": flipped(files["LICENSE"])}),
    "a file more": lambda files: files.update({"extra.json": b"{}"}),
    "weights more": lambda files: files.update({"model-extra.safetensors": files[SHARD]}),
    "a file in a folder more": lambda files: files.update({"sub/extra.txt": b""}),
    "a file less": lambda files: files.pop("generation_config.json"),
    "the index": lambda files: files.update({"model.safetensors.index.json": files["model.safetensors.index.json"] + b" \n"}),
}
SAME_TEXT = {
    "a tensor",
    "a tensor, far from what the fingerprint reads",
    "a header",
    "config.json",
    "a side file of one size",
    "a file less",
}


@pytest.mark.parametrize("case", CHANGES)
def test_the_differences_of_a_download(own_hub: LoopbackHub, files: Files, tmp_path: Path, case: str) -> None:
    CHANGES[case](files)
    found = verify_remote(publish(own_hub, files)).differences
    expected = local(tmp_path / "download", files)
    assert len(found) == len(expected) >= 1
    assert [line.split("'")[1] for line in found] == [line.split("'")[1] for line in expected]
    if case in SAME_TEXT:
        assert found == expected


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_shard_of_another_size(own_hub: LoopbackHub, files: Files, change: Callable[[bytes], bytes]) -> None:
    size = len(files[SHARD])
    files[SHARD] = change(files[SHARD])
    first, second = verify_remote(publish(own_hub, files)).differences
    assert first.startswith(f"'{SHARD}' is {len(files[SHARD]):,} bytes, expected {size:,} bytes with sha256 ")
    assert SHARD in second and "expected" in second  # its header says so too


def test_a_missing_shard_is_named(own_hub: LoopbackHub, files: Files) -> None:
    del files[SHARD]
    found = verify_remote(publish(own_hub, files))
    assert found.differences[0] == f"'{SHARD}' is missing" and not found.ok


def test_a_server_that_sends_other_small_files_than_it_lists(own_hub: LoopbackHub, files: Files) -> None:
    name = publish(own_hub, files, served={"LICENSE": flipped(files["LICENSE"])})
    (found,) = verify_remote(name).differences
    assert found.startswith(f"'LICENSE' cannot be compared: {name}/LICENSE: fetched 11 bytes with sha256 ")
    assert f"expected 11 bytes with git id {git_id(files['LICENSE'])[:12]} as the repository lists it" in found


def test_a_huge_small_file_is_not_fetched(own_hub: LoopbackHub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.checkpoint.verify.MAX_FETCHED_BYTES", 10)
    found = verify_remote(publish(own_hub, files)).differences
    assert any(line.startswith("'LICENSE' cannot be compared: ") and "11 bytes, at most 10 are read" in line for line in found)
    assert "LICENSE" not in {path for path, _, _ in own_hub.sent}


def test_what_cannot_be_verified(own_hub: LoopbackHub, files: Files, sharded: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, not an id on the Hub"):
        verify_remote(str(sharded))
    with pytest.raises(SourceError, match="me/absent is missing, private or gated"):
        verify_remote("me/absent")
    name = publish(own_hub, {path: content for path, content in files.items() if not path.startswith("layerprune/")})
    with pytest.raises(ArtifactError, match=rf"{name}: has no layerprune/manifest.json, so hf-layerprune did not write it"):
        verify_remote(name)
