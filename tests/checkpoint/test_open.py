"""What is read from a good checkpoint, what belongs to it, and what travels with it untouched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pytest

from hf_layerprune.checkpoint.header import Header, TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import LocalShards, read_shards
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError
from tests.checkpoint.independent import pruned, read_model, snapshot
from tests.checkpoint.test_refused import INDEX, LAYER, touch_below
from tests.rewriting import rewrite
from tests.tiny_checkpoint import SIDE_FILES, make_checkpoint, make_config, make_plan, make_tensors, write_safetensors


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
    gone = [len(data) for name, (_, _, data) in tensors.items() if name.startswith((f"{LAYER}.1.", f"{LAYER}.4."))]
    assert checkpoint.size({1, 4}) == (checkpoint.parameters - sum(gone) // 2, checkpoint.total_bytes - sum(gone))
    assert {path.as_posix() for path in checkpoint.side_files} == SIDE_FILES.keys() - {"README.md", ".gitattributes"}
    assert list(checkpoint.config) == list(json.loads((source / "config.json").read_text())) and checkpoint.notes == ()


def test_shards(sharded: Path) -> None:
    checkpoint = Checkpoint.open(sharded, "tiny")
    assert list(checkpoint.shards) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert checkpoint.tensors.keys() == read_model(sharded).keys() and not checkpoint.tied
    assert checkpoint.notes == ()


def test_one_file_beside_equal_shards(sharded: Path) -> None:
    """The single file counts, as it does for transformers."""
    write_safetensors(sharded / "model.safetensors", make_tensors(make_config(tied=False)))
    checkpoint = Checkpoint.open(sharded, "tiny")
    assert list(checkpoint.shards) == ["model.safetensors"] and "left out, 3: 'model-00001-of-00003" in checkpoint.notes[0]


class ManyShards(LocalShards):
    """Weight files of thirty tensors without a byte, as many as the index names; they lie nowhere."""

    def headers(self, names: Sequence[str], remedy: str) -> Iterator[tuple[str, Header]]:
        for name in names:
            tensors = {f"{name}.{number}": TensorSpan(self.folder / name, "U8", (0,), 8, 8) for number in range(30)}
            yield name, Header(tensors, None, 8, 8)


def test_many_shards_of_many_tensors(tmp_path: Path) -> None:
    """Compared with the index in linear time."""
    names = [f"{number}.safetensors" for number in range(3000)]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {f"{name}.{number}": name for name in names for number in range(30)}}))
    started = time.monotonic()
    assert len(read_shards(tmp_path, ManyShards(tmp_path))) == 3000
    assert time.monotonic() - started < 20


def test_links_into_the_hub_cache(tmp_path: Path) -> None:
    snapshot_folder = tmp_path / "models--a--b" / "snapshots" / ("c" * 40)
    make_checkpoint(snapshot_folder, shards=2)
    (blobs := tmp_path / "models--a--b" / "blobs").mkdir()
    for path in [path for path in snapshot_folder.rglob("*") if path.is_file()]:
        path.rename(blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, path.parent))
    checkpoint = Checkpoint.open(snapshot_folder, "a/b", "c" * 40)
    assert len(checkpoint.shards) == 2 and Path("additional/vocab.txt") in checkpoint.side_files


def test_side_files(source: Path) -> None:
    (source / "tokenizer.txt").symlink_to("additional/vocab.txt")
    touch_below(source / "/".join("a" * 64) / "x.txt")
    (source / "many").mkdir()
    for number in range(10_000):
        os.mknod(source / "many" / f"{number}.txt")
    found = Checkpoint.open(source, "tiny").side_files
    assert len(found) == 10_000 + len(SIDE_FILES) and {Path("tokenizer.txt"), Path("/".join("a" * 64), "x.txt")} <= {*found}
    shutil.rmtree(source)  # pytest keeps folders of earlier runs, and would remove these one by one later


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
    for name in (*STALE, ".git/HEAD", ".cache/huggingface/x.lock", "__pycache__/a.pyc", "layerprune/old.json", ".DS_Store"):
        touch_below(source / name)
    checkpoint = Checkpoint.open(source, "tiny")
    assert checkpoint.side_files == before
    assert f"left out, {len(STALE)}: 'OPTIMIZER.PT', '__0_0.distcp', 'consolidated.safetensors'" in checkpoint.notes[0]


# --- what is kept as it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mtp.layers.5.input_layernorm.weight", "lm_head.weight"])
def test_tensors_that_are_kept_and_said(source: Path, tmp_path: Path, rewritten_weights: Callable[..., Path], name: str) -> None:
    """Of modules that the class does not have and ignores, or a head that a tied model has all the same."""
    tensors = make_tensors(make_config(tied=False))
    extra = tensors[name] if name in tensors else np.arange(6, dtype=np.uint16).reshape(2, 3)
    rewritten_weights(make_tensors(make_config()) | {name: extra})
    checkpoint = Checkpoint.open(source, "tiny")
    head = name == "lm_head.weight"
    assert ("lm_head.weight is on disk: it is kept" if head else f"transformers ignores are kept, 1: '{name}'") in checkpoint.notes[0]
    assert checkpoint.tied != head
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert read_model(tmp_path / "output") == pruned(read_model(source), [0, 1, 2, 4, 5])


def test_code_and_templates_travel_and_never_run(source: Path, tmp_path: Path) -> None:
    """`auto_map` names a module whose import leaves a mark, and so would the template; both arrive as they were."""
    mark = tmp_path / "ran"
    files = {
        "modeling.py": f"open({str(mark)!r}, 'w')\nclass Evil: pass\n",
        "sitecustomize.py": f"open({str(mark)!r}, 'w')\n",
        "chat_template.jinja": "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '/etc/passwd' %}{{ 1 / 0 }}",
        "tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["modeling.Evil", None]}, "chat_template": "{{ 1 / 0 }}"}),
    }
    for name, content in files.items():
        (source / name).write_text(content)
    auto_map = {"AutoModelForImageTextToText": "modeling.Evil", "AutoConfig": "owner/repo--modeling.Evil"}
    (source / "config.json").write_text(json.dumps(make_config(auto_map=auto_map)))
    make_plan(Checkpoint.open(source, "tiny"), (3,)).save(tmp_path / "plan.json")
    code = (
        "import sys; from pathlib import Path; from hf_layerprune.artifacts.plan import PruningPlan\n"
        "from hf_layerprune.checkpoint.index import Checkpoint; from hf_layerprune.checkpoint.rewrite import rewrite\n"
        "rewrite(Checkpoint.open(Path(sys.argv[1]), 'tiny'), PruningPlan.load(sys.argv[2]), Path(sys.argv[3]))\n"
        "assert not {'modeling', 'jinja2', 'pickle'} & set(sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(source), str(tmp_path / "plan.json"), str(tmp_path / "output")]
    subprocess.run(arguments, check=True, capture_output=True)
    assert not mark.exists() and json.loads((tmp_path / "output/config.json").read_text())["auto_map"] == auto_map
    assert all((tmp_path / "output" / name).read_text() == content for name, content in files.items())


def test_no_command_offers_remote_code() -> None:
    from hf_layerprune.cli.main import cli

    context = click.Context(cli)
    commands = [command for name in cli.list_commands(context) if (command := cli.get_command(context, name))]
    flags = {flag for command in commands for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    assert flags and not any("remote" in flag or "trust" in flag for flag in flags)


def test_a_side_file_of_40_gb(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts when space is checked, before a byte of it is read."""
    (source / "calibration.dat").touch()
    os.truncate(source / "calibration.dat", 40_000_000_000)
    checkpoint, before = Checkpoint.open(source, "tiny"), sorted(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(50 << 30, 20 << 30, 30_000_000_000))  # type: ignore[attr-defined]
    needed = r"output: 40,0\d\d,\d{3},\d{3} bytes are needed and 30,000,000,000 are free. Free some space"
    with pytest.raises(CheckpointError, match=needed):
        rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert sorted(tmp_path.iterdir()) == before


def test_300_side_files_without_their_right_to_run(source: Path, tmp_path: Path) -> None:
    (source / "many").mkdir()
    for number in range(300):
        (source / "many" / f"{number}.txt").write_bytes(b"%d" % number)
    (source / "setup.sh").write_bytes(b"#!/bin/sh\nrm -rf /\n")
    (source / "setup.sh").chmod(0o6755)
    checkpoint, before = Checkpoint.open(source, "tiny"), snapshot(source)
    manifest = rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert [manifest.files[f"many/{number}.txt"].bytes for number in range(300)] == [len(str(number)) for number in range(300)]
    assert len(manifest.files) == 301 + len(SIDE_FILES)  # of these the card and .gitattributes stay behind; config and weights are ours
    assert (tmp_path / "output/setup.sh").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "output/setup.sh").read_bytes() == (source / "setup.sh").read_bytes() and snapshot(source) == before
    found = verify(tmp_path / "output", checkpoint)
    assert found.ok and found.files == len(manifest.files)


def test_a_config_with_a_byte_order_mark_makes_a_model_without(source: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    content = (source / "config.json").read_bytes()
    (source / "config.json").write_bytes(b"\xef\xbb\xbf" + content)
    checkpoint = Checkpoint.open(source, "tiny")
    assert checkpoint.config == json.loads(content)
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert verify(tmp_path / "output", checkpoint).ok
    assert (tmp_path / "output/config.json").read_bytes().startswith(b"{")
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not any(info.values()) and len(model.model.language_model.layers) == 5
