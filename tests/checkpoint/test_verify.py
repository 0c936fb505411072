"""Every change to a pruned checkpoint, or to what it claims, must be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint, make_plan

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import ArtifactError


@pytest.fixture
def output(sharded: Path, tmp_path: Path) -> Path:
    checkpoint = Checkpoint.open(sharded, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output", records={"statistics.safetensors": b"x"})
    return tmp_path / "output"


def test_untouched(output: Path, sharded: Path) -> None:
    found = verify(output)
    assert found.ok and found.files == 10 and found.tensors == 115
    assert verify(output, Checkpoint.open(sharded, "tiny")) == found


def test_files_that_may_be_added(output: Path) -> None:
    for name in ("README.md", ".gitattributes", "layerprune/eval.json", ".cache/huggingface/x"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("later")
    assert verify(output).ok


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a tensor": (
        lambda folder: flip(folder / "model-00002-of-00003.safetensors"),
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
        "tensors are surplus, as the manifest has them not, 1: 'lm_head.weight'",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_found(output: Path, change: Callable[[Path], object], message: str) -> None:
    import re

    (output / "extra").mkdir()
    change(output)
    found = verify(output)
    assert not found.ok and any(re.search(message, difference) for difference in found.differences), found.differences


def forge(output: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    from hf_layerprune.checkpoint.copying import hash_file

    record = hash_file(output / name)
    edit(output / "layerprune/manifest.json", lambda value: value["files"].update({name: {"bytes": record.bytes, "sha256": record.sha256}}))


FORGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "tensor": ("model-00002-of-00003.safetensors", flip, "tensor '.*' is not the source's '.*'"),
    "side file": ("LICENSE", flip, "'LICENSE' is not the source's file"),
    "config": ("config.json", lambda path: edit(path, lambda config: config.update(x=1)), "config.json is not the source's, shortened"),
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


def test_wrong_source(output: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="another model or another revision"):
        verify(output, Checkpoint.open(make_checkpoint(tmp_path / "other", seed=3), "other"))


def test_no_manifest(output: Path) -> None:
    shutil.rmtree(output / "layerprune")
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot read the manifest"):
        verify(output)
