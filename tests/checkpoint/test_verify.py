"""Every change to a pruned checkpoint, or to what it claims, must be found."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint import verify as verifying
from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify, verify_remote
from hf_layerprune.errors import ArtifactError, CheckpointError, FamilyError, SourceError, UsageError
from hf_layerprune.hub.listing import file_record
from tests.hub.loopback import LoopbackHub, git_id
from tests.hub.models import content
from tests.rewriting import rewrite
from tests.tiny_checkpoint import SIDE_FILES, make_checkpoint, make_plan

SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture
def output(sharded: Path, tmp_path: Path) -> Path:
    checkpoint = Checkpoint.open(sharded, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output", records={"statistics.safetensors": b"x"})
    return tmp_path / "output"


def test_untouched(output: Path, sharded: Path) -> None:
    found = verify(output)
    assert found.ok and found.files == 10 and found.tensors == 115
    assert verify(output, Checkpoint.open(sharded, "tiny")) == found


ADDED = ("README.md", ".gitattributes", "layerprune/eval.json", ".cache/huggingface/x")


def flip(path: Path, at: int = -1) -> None:
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(bytes(changed))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a tensor": (lambda folder: flip(folder / SECOND), "'model-00002-of-00003.safetensors' is .* expected"),
    "a bit that no fingerprint reads": (
        lambda folder: flip(folder / SECOND, (folder / SECOND).stat().st_size // 2),
        "'model-00002-of-00003.safetensors' is .* expected",
    ),
    "a shorter shard": (
        lambda folder: os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1),
        r"'model-00002-of-00003.safetensors' is [\d,]+ bytes, expected [\d,]+ bytes with sha256 ",
    ),
    "a header": (
        lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes().replace(b'"pt"', b'"tf"')),
        "'model-00002-of-00003.safetensors' is .* expected",
    ),
    "a side file": (lambda folder: flip(folder / "LICENSE"), "'LICENSE' is 11 bytes with sha256 .*, expected 11 bytes"),
    "a longer file": (lambda folder: (folder / "LICENSE").write_text("MIT" * 10), "'LICENSE' is 30 bytes"),
    "a missing file": (lambda folder: (folder / "LICENSE").unlink(), "'LICENSE' is missing"),
    "a missing shard": (
        lambda folder: (folder / "model-00003-of-00003.safetensors").unlink(),
        "'model-00003-of-00003.safetensors' is missing",
    ),
    "a new side file": (lambda folder: (folder / "tokenizer.json").touch(), "'tokenizer.json' is not in the manifest"),
    "a new weight file": (lambda folder: (folder / "extra/pytorch_model.bin").touch(), "'extra/pytorch_model.bin' is not in the manifest"),
    "the config": (lambda folder: edit(folder / "config.json", lambda config: config.update(x=1)), "'config.json' is"),
    "the depth": (
        lambda folder: edit(folder / "config.json", lambda config: config["text_config"].update(num_hidden_layers=6)),
        "original layer of each of the 6",
    ),
    "the manifest's tensors": (
        lambda folder: edit(folder / "layerprune/manifest.json", lambda value: value["tensors"].pop("lm_head.weight")),
        "tensors are unexpected: not in the manifest, 1: 'lm_head.weight'",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_found(own_hub: LoopbackHub, output: Path, change: Callable[[Path], object], message: str) -> None:
    """On the Hub as in the folder, with the same words where no weights are needed for them."""
    (output / "extra").mkdir()
    change(output)
    found = verify(output)
    assert not found.ok and any(re.search(message, difference) for difference in found.differences), found.differences
    if message.startswith("original layer"):  # such a config is refused before anything is compared
        with pytest.raises(FamilyError, match=message):
            verify_remote(publish(own_hub, output))
        return
    remote = verify_remote(publish(own_hub, output)).differences
    told = [[line for line in lines if line.startswith("'")] for lines in (found.differences, remote)]
    assert told[0] == told[1] and len(remote) == len(found.differences)


def publish(hub: LoopbackHub, folder: Path, **faults: Any) -> str:
    return hub.publish(content(folder), **faults)[0]


def test_on_the_hub_no_weights_are_downloaded(own_hub: LoopbackHub, output: Path) -> None:
    for name in ADDED:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("later")
    assert verify(output).ok and verify_remote(publish(own_hub, output)) == verify(output)
    asked = [path for path, _, _ in own_hub.sent]
    assert all(asked.count(path) <= 5 for path in asked if path.endswith(".safetensors"))
    assert "LICENSE" in asked and "README.md" not in asked


def test_what_the_hub_sends_of_small_files(own_hub: LoopbackHub, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one than it lists, and one that is too large to be fetched."""
    name = publish(own_hub, output, served={"LICENSE": b"Apache-2.1\n"})
    (found,) = verify_remote(name).differences
    assert found.startswith(f"'LICENSE' cannot be compared: {name}/LICENSE: fetched 11 bytes with sha256 ")
    assert f"expected 11 bytes with git id {git_id(SIDE_FILES['LICENSE'])[:12]} as the repository lists it" in found
    monkeypatch.setattr("hf_layerprune.checkpoint.verify.MAX_FETCHED_BYTES", 10)
    lines = verify_remote(publish(own_hub, output)).differences
    assert any(line.startswith("'LICENSE' cannot be compared: ") and "11 bytes, at most 10 are read" in line for line in lines)
    assert "LICENSE" not in {path for path, _, _ in own_hub.sent}


def test_what_cannot_be_verified_on_the_hub(own_hub: LoopbackHub, output: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, not an id on the Hub"):
        verify_remote(str(output))
    with pytest.raises(SourceError, match="me/absent is missing, private or gated"):
        verify_remote("me/absent")
    shutil.rmtree(output / "layerprune")
    name = publish(own_hub, output)
    with pytest.raises(ArtifactError, match=rf"{name}: has no layerprune/manifest.json, so hf-layerprune did not write it"):
        verify_remote(name)


def forge(output: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    record = file_record(output / name)
    edit(output / "layerprune/manifest.json", lambda value: value["files"].update({name: {"bytes": record.bytes, "sha256": record.sha256}}))


def added(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x80\x04.")


FORGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "tensor": ("model-00002-of-00003.safetensors", flip, "tensor '.*' is not the source's '.*'"),
    "side file": ("LICENSE", flip, "'LICENSE' is not the source's file"),
    "config": ("config.json", lambda path: edit(path, lambda config: config.update(x=1)), "config.json is not the source's, shortened"),
    "a config that is equal but for a type": (
        "config.json",
        lambda path: edit(path, lambda config: config.update(tie_word_embeddings=int(config["tie_word_embeddings"]))),
        "config.json is not the source's, shortened",
    ),
    "what a weight file says of itself": (
        "model-00002-of-00003.safetensors",
        lambda path: path.write_bytes(path.read_bytes().replace(b'{"format":"pt"}', b'{"format":"tf"}')),
        "'__metadata__' of 'model-00002-of-00003.safetensors' is not the source's",
    ),
    "what the index says of itself": (
        "model.safetensors.index.json",
        lambda path: edit(path, lambda index: index["metadata"].update(x=1)),
        "model.safetensors.index.json holds more than the places and the size",
    ),
    "the size in the index": (
        "model.safetensors.index.json",
        lambda path: edit(path, lambda index: index["metadata"].update(total_size=1)),
        "model.safetensors.index.json holds more than the places and the size",
    ),
    **{
        name: (name, added, f"'{name}' is a weight file that is no part of the checkpoint")
        for name in ("pytorch_model.bin", "model.pt", "extra.safetensors", "OPTIMIZER.PT", "sub/x.index.json")
    },
    "new file": ("tokenizer.json", lambda path: path.write_text("{}"), "'tokenizer.json' is not the source's file"),
}


@pytest.mark.parametrize(("name", "change", "message"), FORGED.values(), ids=FORGED)
def test_the_source_unmasks_a_forged_manifest(
    output: Path, sharded: Path, name: str, change: Callable[[Path], object], message: str
) -> None:
    change(output / name)
    forge(output, name)
    assert verify(output).ok
    found = verify(output, Checkpoint.open(sharded, "tiny"))
    assert len(found.differences) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.differences[0])


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link out": (lambda path: path.symlink_to("/etc/passwd"), "is a link to '/etc/passwd', outside the checkpoint"),
    "a pipe": (os.mkfifo, "is a pipe, socket or device, expected a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device, expected a regular file"),
    "a link that leads nowhere": (lambda path: path.symlink_to("absent"), "is a link that leads nowhere"),
}


@pytest.mark.parametrize("name", ["LICENSE", "extra.txt"])
@pytest.mark.parametrize(("make", "message"), ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_file_is_one_difference_among_others(
    output: Path, sharded: Path, make: Callable[[Path], object], message: str, name: str
) -> None:
    (output / name).unlink(missing_ok=True)
    make(output / name)
    flip(output / "chat_template.jinja")
    flip(output / "model-00001-of-00003.safetensors")
    for found in (verify(output), verify(output, Checkpoint.open(sharded, "tiny"))):
        assert len(found.differences) == 3 and f"'{name}' {message}" in found.differences[0], found.differences
        assert [difference.partition(" is ")[0] for difference in found.differences[1:]] == [
            "'chat_template.jinja'",
            "'model-00001-of-00003.safetensors'",
        ]


def test_wrong_source(output: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="another model or another revision"):
        verify(output, Checkpoint.open(make_checkpoint(tmp_path / "other", seed=3), "other"))


def test_no_manifest(output: Path) -> None:
    shutil.rmtree(output / "layerprune")
    with pytest.raises(ArtifactError, match=r"no layerprune/manifest\.json, so hf-layerprune did not make this folder\. Pass one that"):
        verify(output)


def test_several_tensors_are_told_in_their_order(output: Path, sharded: Path) -> None:
    changed = []
    for path in sorted(output.glob("*.safetensors")):
        header = read_header(path)
        for name in list(header.tensors)[::7]:
            flip(path, header.tensors[name].begin)
            changed.append(name)
        forge(output, path.name)
    found = [re.search("tensor '(.*)' is not the source's '.*'", difference) for difference in differences(output, sharded)]
    told = [match[1] for match in found if match]
    assert sorted(told) == sorted(changed) and len(told) > 10
    written = list(Checkpoint.open(sharded, "tiny").tensors)
    assert told == [name for name in kept(written, 3) if name in changed]


def differences(output: Path, source: Path) -> tuple[str, ...]:
    return verify(output, Checkpoint.open(source, "tiny")).differences


def kept(names: list[str], dropped: int) -> list[str]:
    """The new names of the source's tensors without one layer, in the source's order."""

    def renamed(name: str) -> str:
        return re.sub(r"(language_model\.layers\.)(\d+)", lambda found: f"{found[1]}{int(found[2]) - (int(found[2]) > dropped)}", name)

    return [renamed(name) for name in names if f"language_model.layers.{dropped}." not in name]


def test_an_unreadable_file_is_one_difference_among_others(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(output / "LICENSE")
    broken = str(output / "model-00002-of-00003.safetensors")
    file_digest = hashlib.file_digest

    def failing(file: Any, digest: Any) -> Any:
        if file.name == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return file_digest(file, digest)

    monkeypatch.setattr(hashlib, "file_digest", failing)
    first, second = verify(output).differences
    assert first.startswith("'LICENSE' is 11 bytes")
    assert second == "'model-00002-of-00003.safetensors' cannot be compared: cannot read it: Input/output error. Check the disk."


@pytest.mark.parametrize("interrupted", [True, False], ids=["interrupt", "error"])
def test_after_an_interrupt_or_an_error_no_reader_goes_on(
    output: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """Tensors that several threads would read for minutes, until one of them fails or the person interrupts."""
    source = Checkpoint.open(sharded, "tiny")
    calls = itertools.count()

    def slow(path: Path, begin: int, end: int, **options: Any) -> Iterator[memoryview]:
        if next(calls) == 3:
            if not interrupted:
                raise CheckpointError("reading failed")
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        for _ in range(6000):
            time.sleep(0.01)
            yield memoryview(b"same")

    monkeypatch.setattr(verifying, "read_blocks", slow)
    with pytest.raises(KeyboardInterrupt if interrupted else CheckpointError):
        verifying.compare(Checkpoint.open(output, "output"), source, make_plan(source, (3,)))
    assert next(calls) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_without_more_threads(output: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not differences(output, sharded)
