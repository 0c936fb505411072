"""Rows of BAD_INPUT.md ("Checkpoint and index", "Config, tokenizer, side files") that no other file of this folder shows."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError, FamilyError, LayerPruneError, SourceError
from tests.checkpoint.independent import pruned, read_model, snapshot
from tests.checkpoint.refusing import refused
from tests.rewriting import rewrite
from tests.tiny_checkpoint import SIDE_FILES, make_config, make_plan, make_tensors, write_safetensors

QUANTIZED: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "gptq": {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [["self_attn.q_proj"]]},
    "awq": {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["model.language_model.layers.3"]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]},
}


@pytest.mark.parametrize("place", ["quantization_config", "text_config__quantization_config"])
@pytest.mark.parametrize("method", QUANTIZED)
def test_quantized(source: Path, method: str, place: str) -> None:
    (source / "config.json").write_text(json.dumps(make_config(**{place: QUANTIZED[method]})))
    refused(source, f"the checkpoint is quantized .*'{method}'.*Prune the unquantized checkpoint and quantize the result", FamilyError)


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, type[LayerPruneError]]] = {
    "depth absent": (lambda text: text.pop("num_hidden_layers"), "_layers' is None, expected .* hold 6 layers", FamilyError),
    "depth 0": (lambda text: text.update(num_hidden_layers=0), "_layers' is 0, expected .* hold 6 layers", FamilyError),
    "depth 1": (lambda text: text.update(num_hidden_layers=1), "_layers' is 1, expected .* hold 6 layers", FamilyError),
    "depth 2": (lambda text: text.update(num_hidden_layers=2), "_layers' is 2, expected .* hold 6 layers", FamilyError),
    "depth negative": (lambda text: text.update(num_hidden_layers=-6), "_layers' is -6, expected .* hold 6 layers", FamilyError),
    "depth 10^9": (lambda text: text.update(num_hidden_layers=10**9), "_layers' is 1000000000, expected .* hold 6 layers", FamilyError),
    "depth 10,000": (lambda text: text.update(num_hidden_layers=10_000), "is 10000, but the tensors hold 6 layers", CheckpointError),
    "depth text": (lambda text: text.update(num_hidden_layers="6"), "_layers' is '6', expected .* hold 6 layers", FamilyError),
    "depth float": (lambda text: text.update(num_hidden_layers=6.0), "_layers' is 6.0, expected .* hold 6 layers", FamilyError),
    "depth too small": (lambda text: text.update(num_hidden_layers=5), "is 5, but the tensors hold 6 layers: layer 5 is", CheckpointError),
    "depth too large": (lambda text: text.update(num_hidden_layers=7), "is 7, but the tensors hold 6 layers: layer 6 is", CheckpointError),
    "undeclared list": (
        lambda text: text.update(kv_heads=[2] * 6),
        r"'text_config.kv_heads' has 6 entries.*not declared. Add it to .* in hf_layerprune/families/",
        FamilyError,
    ),
    "layer_types": (lambda text: text.update(layer_types=["full"] * 7), "layer_types' is 7 entries, expected a list of 6", FamilyError),
    "layer number": (lambda text: text.update(mlp_only_layers=[6]), r"mlp_only_layers' is \[6\], expected different layers", FamilyError),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message", "kind"), CONFIGS.values(), ids=CONFIGS)
def test_depth_and_lists(source: Path, change: Callable[[dict[str, Any]], Any], message: str, kind: type[LayerPruneError]) -> None:
    config = make_config()
    change(config["text_config"])
    (source / "config.json").write_text(json.dumps(config))
    refused(source, message, kind)


SIZES = {
    "a width": ("text_config__hidden_size",),
    "a number of modules": ("vision_config__depth",),
}


@pytest.mark.parametrize("keys", SIZES.values(), ids=SIZES)
def test_numbers_of_4200_digits(source: Path, keys: tuple[str, ...]) -> None:
    (source / "config.json").write_text(json.dumps(make_config(**dict.fromkeys(keys, 10**4200))))
    refused(source, "is 1000.*, expected a whole number of at least 1 and below 2.63", FamilyError)


def test_depth_absent_and_a_shard_too(sharded: Path) -> None:
    """One fault at a time."""
    (sharded / "config.json").write_text(json.dumps(make_config(tied=False, text_config__num_hidden_layers=None)))
    refused(sharded, r"is None, expected .*10,000\. The tensors hold 6 layers\.$", FamilyError)
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, r"is None, expected .*10,000\.$", FamilyError)


def test_unknown_family_names_the_nearest(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(make_config(model_type="qwen3-vl")))
    refused(source, r"'qwen3-vl' is not declared. Did you mean 'qwen3_vl'.*add a Family .*hf_layerprune/families/", FamilyError)


OTHER_FORMATS = {
    "pickled": ["config.json", "pytorch_model.bin"],
    "pickled, sharded": ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
    "pth": ["config.json", "weights.pth"],
    "consolidated": ["params.json", "consolidated.00.pth"],
}


@pytest.mark.parametrize("names", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_other_formats_come_with_the_command(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"\x80\x04.")
    command = f"M.from_pretrained('{tmp_path}').save_pretrained('NEW')"
    with pytest.raises(SourceError, match="Convert it to safetensors first: python -c") as caught:
        Checkpoint.open(tmp_path, "tiny")
    assert command in str(caught.value)


# What may lie in a weight file besides the model, with one number or none: kept; with one that follows the depth: refused.
EXTRAS = {
    "multi-token prediction": ("mtp.layers.0.input_layernorm.weight", (4,), True),
    "adapter": ("base_model.model.lora_A.default.weight", (2, 3), True),
    "optimizer state": ("optimizer.state.2.exp_avg", (4,), True),
    "optimizer state of the last layer": ("optimizer.state.5.exp_avg", (4,), False),
    "adapter of the last layer": ("base_model.layers.5.lora_A.weight", (2, 3), False),
    "one entry a layer": ("router_scales", (6, 2), False),
}


@pytest.mark.parametrize(("name", "shape", "kept"), EXTRAS.values(), ids=EXTRAS)
def test_tensors_of_no_known_place(
    source: Path, tmp_path: Path, rewritten_weights: Callable[..., Path], name: str, shape: tuple[int, ...], kept: bool
) -> None:
    rewritten_weights(make_tensors(make_config()) | {name: np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)})
    if not kept:
        refused(source, f"'{name}', .*is not declared and seems to depend on the 6 layers. Declare it in hf_layerprune/families/")
        return
    checkpoint = Checkpoint.open(source, "tiny")
    assert f"no known place are kept, 1: '{name}'" in checkpoint.notes[0]
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert read_model(tmp_path / "output") == pruned(read_model(source), [0, 1, 2, 4, 5])


def test_a_pruned_model_is_judged_by_both_depths(source: Path, tmp_path: Path, rewritten_weights: Callable[..., Path]) -> None:
    """What came along from the ancestor of 6 layers has 5 entries by chance; what was added to the 5 that are left may have one a layer."""
    rewritten_weights(make_tensors(make_config()) | {"router_scales": np.ones((5, 2), np.uint16)})
    rewrite(Checkpoint.open(source, "tiny"), make_plan(Checkpoint.open(source, "tiny"), (3,)), tmp_path / "pruned")
    assert "'router_scales'" in Checkpoint.open(tmp_path / "pruned", "tiny").notes[0]
    tensors = {name: np.frombuffer(data, np.uint16).reshape(shape) for name, (_, shape, data) in read_model(tmp_path / "pruned").items()}
    for name, shape, message in (("new_scales", (5, 2), "on the 5 layers"), ("other", (6, 2), "on the 6"), ("a.4.b", (2,), "on the 5")):
        write_safetensors(tmp_path / "pruned/model.safetensors", tensors | {name: np.ones(shape, np.uint16)})
        refused(tmp_path / "pruned", f"'{name}', .* seems to depend {message}")
    (tmp_path / "pruned/layerprune/manifest.json").write_text("{}")
    write_safetensors(tmp_path / "pruned/model.safetensors", tensors)
    refused(tmp_path / "pruned", "'router_scales', .* seems to depend on the 5 layers")


def test_a_shape_of_300_000_dimensions_is_not_shown_whole(source: Path) -> None:
    path = source / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, size = json.loads(content[8:end]), len(content) - end
    header["adapters.5.scale"] = {"dtype": "U8", "shape": [0] * 300_000, "data_offsets": [size, size]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[end:])
    refused(source, r"'adapters.5.scale', \[0, 0, .*….* 0, 0\], is not declared")


def test_a_tied_model_with_another_head_is_kept_as_it_is(source: Path, tmp_path: Path, rewritten_weights: Callable[..., Path]) -> None:
    rewritten_weights(make_tensors(make_config(tied=False)))
    checkpoint = Checkpoint.open(source, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert read_model(tmp_path / "output")["lm_head.weight"] == read_model(source)["lm_head.weight"]


# --- headers that would cost memory or time -------------------------------------------------------------------------------

BOMBS = {
    "lists": b'{"a":[' + b"[]," * 300_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 300_000 + b"{}]}",
    "nested": b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}",
    "blanks": b"{" + b" " * 3_000_000,
    "a number": b'{"a":' + b"9" * 3_000_000 + b"}",
    "names": b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_header_that_is_a_bomb(tmp_path: Path, bomb: bytes) -> None:
    """Refused in linear time, with memory in proportion to its own size, which the format limits."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(bomb)) + bomb)
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"x\.safetensors") as caught:
        read_header(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30 * len(bomb) and time.monotonic() - started < 10
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


# --- what a stranger's folder carries along -------------------------------------------------------------------------------


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
    with pytest.raises(
        CheckpointError, match=r"output: 40,0\d\d,\d{3},\d{3} bytes are needed and 30,000,000,000 are free. Free some space"
    ):
        rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert sorted(tmp_path.iterdir()) == before


def test_300_side_files(source: Path, tmp_path: Path) -> None:
    (source / "many").mkdir()
    for number in range(300):
        (source / "many" / f"{number}.txt").write_bytes(b"%d" % number)
    checkpoint = Checkpoint.open(source, "tiny")
    manifest = rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert [manifest.files[f"many/{number}.txt"].bytes for number in range(300)] == [len(str(number)) for number in range(300)]
    assert len(manifest.files) == 300 + len(SIDE_FILES)  # of these the card and .gitattributes stay behind; config and weights are ours
    found = verify(tmp_path / "output", checkpoint)
    assert found.ok and found.files == len(manifest.files)


def test_a_config_with_a_byte_order_mark_makes_a_model_without(source: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    (source / "config.json").write_bytes(b"\xef\xbb\xbf" + (source / "config.json").read_bytes())
    checkpoint = Checkpoint.open(source, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert verify(tmp_path / "output", checkpoint).ok
    assert (tmp_path / "output/config.json").read_bytes().startswith(b"{")
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not any(info.values()) and len(model.model.language_model.layers) == 5


def test_executables_lose_their_right_to_run(source: Path, tmp_path: Path) -> None:
    (source / "setup.sh").write_bytes(b"#!/bin/sh\nrm -rf /\n")
    (source / "setup.sh").chmod(0o6755)
    checkpoint, before = Checkpoint.open(source, "tiny"), snapshot(source)
    rewrite(checkpoint, make_plan(checkpoint, (3,)), tmp_path / "output")
    assert (tmp_path / "output/setup.sh").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "output/setup.sh").read_bytes() == (source / "setup.sh").read_bytes() and snapshot(source) == before
