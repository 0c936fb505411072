"""Rows of BAD_INPUT.md on configs, side files and whole folders: exit code, one line, and a file system that is as it was."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pins.commands import CONVERT, check_refused, run, snapshot
from tests.pins.static_checkpoint import WEIGHTS, dense_config, dense_shapes, make_tensors, write_safetensors

Spoil = Callable[[Path], object]
TEXTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "depth absent": lambda text: text.pop("num_hidden_layers"),
    **{
        f"depth {depth!r}": lambda text, depth=depth: text.update(num_hidden_layers=depth)
        for depth in (0, 1, 2, -6, "6", 6.0, 5, 7, 36, 10**9)
    },
    "undeclared list": lambda text: text.update(kv_heads=[2] * 6),
    "layer_types of another length": lambda text: text.update(layer_types=["full"] * 7),
    "an index out of range": lambda text: text.update(mlp_only_layers=[6]),
}
QUANTIZED = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
}
CONFIGS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "a list": b"[1]",
    "NaN": json.dumps(dense_config() | {"a": float("nan")}).encode(),
    "duplicate keys": json.dumps(dense_config())[:-1].encode() + b', "model_type": "qwen3_vl"}',
    "nested": b'{"a": ' * 100_000,
    "unknown model_type": json.dumps(dense_config() | {"model_type": "qwen3-vl"}).encode(),
    "untied without a head": json.dumps(dense_config(tied=False)).encode(),
    **{f"quantized by {name}": json.dumps(dense_config() | {"quantization_config": how}).encode() for name, how in QUANTIZED.items()},
}


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_the_text_section(source: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = dense_config()
    change(config["text_config"])
    (source / "config.json").write_text(json.dumps(config))
    check_refused(source.parent, *CONVERT)


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_configs(source: Path, content: bytes | None) -> None:
    (source / "config.json").unlink()
    if content is not None:
        (source / "config.json").write_bytes(content)
    check_refused(source.parent, *CONVERT)


def test_a_config_of_50_mb(source: Path) -> None:
    (source / "config.json").write_bytes(json.dumps(dense_config()).encode().ljust(50_000_000))
    check_refused(source.parent, *CONVERT)


# --- side files, and folders that are something else ----------------------------------------------------------------------


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


SIDES: dict[str, tuple[str, Spoil]] = {
    "link out": ("vocab.json", lambda path: path.symlink_to("/etc/passwd")),
    "link to a folder outside": ("extra", lambda path: path.symlink_to("/etc")),
    "dangling link": ("gone", lambda path: path.symlink_to("absent")),
    "device": ("zero", lambda path: path.symlink_to("/dev/zero")),
    "pipe": ("pipe", os.mkfifo),
    "newline": ("a\nb", touch),
    "backslash": ("evil\\x.json", touch),
    "names that differ in case": ("CHAT_TEMPLATE.jinja", touch),
    "65 folders": ("/".join("a" * 65) + "/x.txt", touch),
}
FOREIGN = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
    "pipeline": ("model_index.json",),
    "dataset": ("dataset_infos.json",),
    "parquet": ("train-00000.parquet",),
    "pickled": ("config.json", "pytorch_model.bin"),
    "pth": ("config.json", "weights.pth"),
    "gguf": ("config.json", "model-q4.gguf"),
    "consolidated": ("params.json", "consolidated.00.pth"),
    "nothing": (),
}


@pytest.mark.parametrize(("name", "make"), SIDES.values(), ids=SIDES)
def test_side_files(source: Path, name: str, make: Spoil) -> None:
    make(source / name)
    check_refused(source.parent, *CONVERT)


@pytest.mark.parametrize(
    "command", [CONVERT, ("inspect", "source"), ("plan", "source", "--method", "random", "-o", "out")], ids=lambda line: line[0]
)
@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_foreign_folders(tmp_path: Path, names: tuple[str, ...], command: tuple[str, ...]) -> None:
    (tmp_path / "here/source").mkdir(parents=True)
    for name in names:
        (tmp_path / "here/source" / name).write_bytes(b"{}")
    check_refused(tmp_path / "here", *command)


# --- odd and still right --------------------------------------------------------------------------------------------------


def links_into_blobs(folder: Path) -> None:
    """As the Hub's cache has it."""
    snapshots, blobs = folder.parent / "models--a--b/snapshots", folder.parent / "models--a--b/blobs"
    snapshots.mkdir(parents=True)
    blobs.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    folder.rename(snapshots / folder.name)
    folder.symlink_to(snapshots / folder.name)


def change_config(**values: Any) -> Spoil:
    return lambda folder: (folder / "config.json").write_text(json.dumps(dense_config() | values))


RIGHT: dict[str, tuple[Spoil, str | None]] = {  # and a file that must arrive as it was
    "byte-order mark": (lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()), None),
    "no metadata": (lambda folder: write_safetensors(folder / WEIGHTS, make_tensors(dense_shapes()), None), None),
    "links into blobs": (links_into_blobs, None),
    "tied with a head": (lambda folder: write_safetensors(folder / WEIGHTS, make_tensors(dense_shapes(tied=False))), None),
    "multi-token prediction": (
        lambda folder: write_safetensors(folder / WEIGHTS, make_tensors(dense_shapes() | {"mtp.norm.weight": (4,)})),
        None,
    ),
    "code of its own": (change_config(auto_map={"AutoModel": "modeling.Evil"}), None),
    "a module": (lambda folder: (folder / "modeling.py").write_text("raise SystemExit(3)"), "modeling.py"),
    "a hostile template": (lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 / 0 }}"), "chat_template.jinja"),
    "an executable": (lambda folder: ((folder / "run.sh").write_text("#!/bin/sh"), (folder / "run.sh").chmod(0o755)), "run.sh"),
    "a link inside": (lambda folder: (folder / "linked.txt").symlink_to("LICENSE"), "linked.txt"),
}


@pytest.mark.parametrize(("change", "arrives"), RIGHT.values(), ids=RIGHT)
def test_odd_and_still_right(source: Path, change: Spoil, arrives: str | None) -> None:
    """Converted; the output is the one thing that is new, and has no link, nothing executable and no byte-order mark."""
    change(source)
    before, here = snapshot(source.parent), source.parent
    done = run(here, *CONVERT)
    assert done.code == 0, done.err
    after = {name: state for name, state in snapshot(here).items() if name.split("/")[0] != "out"}
    assert after == before
    assert run(here, "verify", "out", "--source", "source").code == 0
    written = [path for path in (here / "out").rglob("*") if path.is_file()]
    assert not any(path.is_symlink() or path.stat().st_mode & 0o111 for path in written)
    assert json.loads((here / "out/config.json").read_text())["text_config"]["num_hidden_layers"] == 5
    (length,) = struct.unpack("<Q", (here / "out" / WEIGHTS).read_bytes()[:8])
    header = json.loads((here / "out" / WEIGHTS).read_bytes()[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert arrives is None or (here / "out" / arrives).read_bytes() == (source / arrives).read_bytes()
