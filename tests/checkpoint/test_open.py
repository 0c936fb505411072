"""Opening a checkpoint: what is read from a good one, and every damaged or foreign folder that must be refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.errors import CheckpointError, FamilyError, SourceError
from tests.checkpoint.independent import read_model
from tests.checkpoint.refusing import refused
from tests.tiny_checkpoint import SIDE_FILES, make_checkpoint, make_config

LAYER = "model.language_model.layers"


def test_one_file(source: Path) -> None:
    checkpoint = Checkpoint.open(source, "tiny", "a" * 40)
    tensors = read_model(source)
    assert checkpoint.tensors.keys() == tensors.keys()
    content = (source / "model.safetensors").read_bytes()
    for name, span in checkpoint.tensors.items():
        assert (span.dtype, span.shape, content[span.begin : span.end]) == tensors[name]
    assert (checkpoint.id, checkpoint.commit, checkpoint.tied) == ("tiny", "a" * 40, True)
    assert checkpoint.parameters == sum(int(np.prod(shape)) for _, shape, _ in tensors.values())
    assert checkpoint.total_bytes == 2 * checkpoint.parameters
    assert {path.as_posix() for path in checkpoint.side_files} == SIDE_FILES.keys() - {"README.md", ".gitattributes"}
    assert list(checkpoint.config) == list(json.loads((source / "config.json").read_text())) and checkpoint.notes == ()


def test_size_without_layers(source: Path) -> None:
    checkpoint = Checkpoint.open(source, "tiny")
    gone = [len(data) for name, (_, _, data) in read_model(source).items() if name.startswith((f"{LAYER}.1.", f"{LAYER}.4."))]
    assert checkpoint.size({1, 4}) == (checkpoint.parameters - sum(gone) // 2, checkpoint.total_bytes - sum(gone))


def test_shards(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded, "tiny")
    assert list(checkpoint.shards) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert checkpoint.tensors.keys() == read_model(sharded).keys() and not checkpoint.tied


def test_links_into_the_hub_cache(tmp_path: Path) -> None:
    snapshot_folder = tmp_path / "models--a--b" / "snapshots" / ("c" * 40)
    make_checkpoint(snapshot_folder, shards=2)
    (blobs := tmp_path / "models--a--b" / "blobs").mkdir()
    for path in [path for path in snapshot_folder.rglob("*") if path.is_file()]:
        blob = blobs / path.name
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    checkpoint = Checkpoint.open(snapshot_folder, "a/b", "c" * 40)
    assert len(checkpoint.shards) == 2 and Path("additional/vocab.txt") in checkpoint.side_files


# --- config.json ----------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "'config.json' is missing"),
    "empty": (b"", "not a valid model config"),
    "a list": (b"[1]", "expected a JSON object, got list"),
    "NaN": (b'{"a": NaN}', "NaN is not a JSON number"),
    "infinite": (b'{"a": 1e999}', "contains a non-finite number"),
    "duplicate keys": (b'{"a": 1, "a": 2}', "'a' is duplicated"),
    "50 MB": (b'{"a": "' + b"x" * 50_000_000 + b'"}', "50,000,009 bytes is no model config"),
    "nested": (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    "Latin-1": ('{"ä": 1}'.encode("latin-1"), "not a valid model config"),
}


@pytest.mark.parametrize(("content", "message"), CONFIGS.values(), ids=CONFIGS)
def test_bad_config(source: Path, content: bytes | None, message: str) -> None:
    (source / "config.json").unlink()
    if content is not None:
        (source / "config.json").write_bytes(content)
    refused(source, message)


def test_config_with_a_byte_order_mark(source: Path) -> None:
    content = (source / "config.json").read_bytes()
    (source / "config.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert Checkpoint.open(source, "tiny").config == json.loads(content)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("absent")])
def test_config_that_is_no_file(source: Path, make: Callable[[Path], None]) -> None:
    (source / "config.json").unlink()
    make(source / "config.json")
    refused(source, "'config.json' is (a folder|a pipe|a link that leads nowhere)")


def test_a_config_that_cannot_be_reached(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that may be listed and not entered: there, and not missing."""
    stat = os.stat

    def refuse(path: Any, *rest: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == str(source / "config.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, *rest, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(CheckpointError, match=r"'config\.json' cannot be reached: Permission denied\. Make it readable"):
        Checkpoint.open(source, "tiny")


def test_family_errors_pass_through(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(make_config(quantization_config={"quant_method": "awq"})))
    refused(source, "awq", FamilyError)


# --- folders that are something else --------------------------------------------------------------------------------------

FOREIGN = {
    "peft adapter": (["adapter_config.json", "adapter_model.safetensors"], "is a peft adapter. Merge it"),
    "adapter beside a model": (["config.json", "model.safetensors", "adapter_config.json"], "is a peft adapter"),
    "diffusers": (["model_index.json"], "is a diffusers pipeline"),
    "dataset": (["dataset_infos.json"], "is a dataset"),
    "saved dataset": (["dataset_dict.json"], "is a dataset"),
    "parquet": (["train-00000.parquet"], "is a dataset"),
    "pickled": (["config.json", "pytorch_model.bin"], "pickled PyTorch weights only. Convert it to safetensors first: python -c"),
    "pickled shards": (["config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], "pickled PyTorch weights"),
    "gguf": (["config.json", "model-q4.gguf"], "GGUF weights only. Pass the model"),
    "consolidated": (["params.json", "consolidated.00.pth"], "consolidated weights only"),
    "pth": (["checkpoint.pth"], "pickled"),
    "nothing": ([], "no model.safetensors and no model.safetensors.index.json"),
}


@pytest.mark.parametrize(("names", "message"), FOREIGN.values(), ids=FOREIGN)
def test_folders_that_are_something_else(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    refused(tmp_path, message, SourceError)


# --- side files -----------------------------------------------------------------------------------------------------------


def touch_below(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


SIDES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "link out": ("vocab.json", lambda path: path.symlink_to("/etc/passwd"), "'vocab.json' is a link to '/etc/passwd', outside"),
    "linked folder": ("extra", lambda path: path.symlink_to("/etc"), "'extra' is a folder"),
    "link to another checkpoint": ("merges.txt", lambda path: path.symlink_to(path.parent.parent / "other.txt"), "outside"),
    "device": ("zero", lambda path: path.symlink_to("/dev/zero"), "'zero' is a pipe, socket or device"),
    "pipe": ("pipe", os.mkfifo, "'pipe' is a pipe, socket or device"),
    "dangling": ("gone", lambda path: path.symlink_to("absent"), "'gone' is a link that leads nowhere"),
    "newline": ("a\nb", Path.touch, r"file name 'a\\nb' has a control character"),
    "backslash": ("evil\\x.json", Path.touch, "has a control character, backslash or drive"),
    "not UTF-8": (os.fsdecode(b"\xff\xfe.json"), Path.touch, "has a control character, backslash or drive"),
    "twin": ("CHAT_TEMPLATE.jinja", Path.touch, "differ only in case"),
    "twin of the config": ("Config.json", Path.touch, "differ only in case"),
    "twin of our folder": ("LAYERPRUNE/plan.json", touch_below, "'layerprune' and 'LAYERPRUNE' differ only in case. Rename one of them"),
    "a file as our folder": ("LayerPrune", Path.touch, "'layerprune' and 'LayerPrune' differ only in case"),
    "twin of a folder": ("Additional/merges.txt", touch_below, "'Additional' and 'additional' differ only in case"),
    "65 folders": ("/".join("a" * 65) + "/x.txt", touch_below, "the folder 'a/a/.*a/' is more than 64 deep, which no model needs"),
}


@pytest.mark.parametrize(("name", "make", "message"), SIDES.values(), ids=SIDES)
def test_side_files_that_are_refused_by_name(source: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    (source.parent / "other.txt").touch()
    make(source / name)
    refused(source, message)


def test_link_within_the_folder(source: Path) -> None:
    (source / "tokenizer.txt").symlink_to("additional/vocab.txt")
    assert Path("tokenizer.txt") in Checkpoint.open(source, "tiny").side_files


def test_64_folders_one_in_the_other(source: Path) -> None:
    touch_below(source / "/".join("a" * 64) / "x.txt")
    assert Path("/".join("a" * 64), "x.txt") in Checkpoint.open(source, "tiny").side_files


def test_1500_folders_one_in_the_other(source: Path) -> None:
    """Deeper than Python recurses, and than a path can be long."""
    here = os.getcwd()
    os.chdir(source)
    try:
        for _ in range(1500):
            os.mkdir("abcd")
            os.chdir("abcd")
        os.chdir(here)
        with pytest.raises(CheckpointError, match=r"'abcd/abcd/.*/abcd/' is more than 64 deep"):
            Checkpoint.open(source, "tiny")
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-r", str(source)], check=True)  # pytest, which recurses, could not remove it later


STALE = (
    "OPTIMIZER.PT",
    "__0_0.distcp",
    "consolidated.safetensors",
    "model.safetensors.bak",
    "model.safetensors.index.json.bak",
    "old/model.onnx",
    "optimizer.pt",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "rust_model.ot",
)


def test_what_is_no_side_file(source: Path) -> None:
    before = Checkpoint.open(source, "tiny").side_files
    for name in STALE:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"stale")
    for name in (".git/HEAD", ".cache/huggingface/x.lock", "__pycache__/a.pyc", "layerprune/old.json", ".DS_Store"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"hidden")
    checkpoint = Checkpoint.open(source, "tiny")
    assert checkpoint.side_files == before
    assert f"left out, {len(STALE)}: 'OPTIMIZER.PT', '__0_0.distcp', 'consolidated.safetensors'" in checkpoint.notes[0]


def test_ten_thousand_side_files(source: Path) -> None:
    (source / "many").mkdir()
    for number in range(10_000):
        os.mknod(source / "many" / f"{number}.txt")
    assert len(Checkpoint.open(source, "tiny").side_files) == 10_000 + len(SIDE_FILES) - 2
    shutil.rmtree(source)  # pytest keeps folders of earlier runs, and would remove these one by one later


def test_unreadable_folder(source: Path) -> None:
    shutil.rmtree(source)
    with pytest.raises(SourceError, match=r"no model\.safetensors"):
        Checkpoint.open(source, "tiny")
