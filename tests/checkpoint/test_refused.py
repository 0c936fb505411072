"""Damaged, foreign and hostile folders: opening says in one line what is wrong, and changes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.errors import CheckpointError, FamilyError, LayerPruneError, SourceError
from tests.checkpoint.independent import read_file, snapshot
from tests.tiny_checkpoint import make_checkpoint, make_config, make_tensors, write_safetensors, write_weights

Change = Callable[[Path], object]
Tensors = dict[str, np.ndarray]
Row = tuple[Change, str, type[LayerPruneError]]
LAYER = "model.language_model.layers"
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4255140312\n"
FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"


def refused(folder: Path, message: str, kind: type[LayerPruneError] = CheckpointError) -> None:
    """Opening must fail with one line that matches, and change nothing."""
    before = snapshot(folder)
    with pytest.raises(kind, match=message) as caught:
        Checkpoint.open(folder, "tiny")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200
    assert snapshot(folder) == before


# --- config.json ----------------------------------------------------------------------------------------------------------


def config(**overrides: Any) -> Change:
    return lambda folder: (folder / "config.json").write_text(json.dumps(make_config(**overrides)))


def content(of: bytes) -> Change:
    return lambda folder: (folder / "config.json").write_bytes(of)


def instead(name: str, make: Change = lambda path: None) -> Change:
    """Something else, or nothing, in the place of a file."""
    return lambda folder: ((folder / name).unlink(), make(folder / name))


CONFIGS: dict[str, Row] = {
    **{
        f"depth {depth!r}": (config(text_config__num_hidden_layers=depth), f"_layers' is {depth!r}, expected .* hold 6 layers", FamilyError)
        for depth in (None, 0, 1, 2, -6, 10**9, "6", 6.0)
    },
    **{
        f"depth {depth}": (
            config(layers=depth),
            f"num_hidden_layers is {depth}, but the tensors hold 6 layers: layer {min(depth, 6)} is",
            CheckpointError,
        )
        for depth in (5, 7, 36, 10_000)
    },
    **{
        f"quantized in {place}, it says": (
            config(**{place: {"quant_method": "awq"}}),
            "but no tensor is quantized: a stale one",
            FamilyError,
        )
        for place in ("quantization_config", "text_config__quantization_config")
    },
    **{
        f"{key} of 4,200 digits": (
            config(**{key: 10**4200}),
            "is 1000.*, expected a whole number of at least 1 and below 2.63",
            FamilyError,
        )
        for key in ("text_config__hidden_size", "vision_config__depth")
    },
    "unknown family": (config(model_type="qwen3-vl"), "Did you mean 'qwen3_vl'.*add a Family .*hf_layerprune/families/", FamilyError),
    "untied without head": (
        config(tied=False),
        "1: 'lm_head.weight'. If the model shares it with the embeddings, set tie_word_embeddings in config.json to true",
        CheckpointError,
    ),
    "tied in the text section": (config(tied=False, text_config__tie_word_embeddings=True), "lm_head.weight", CheckpointError),
    "missing": (instead("config.json"), "'config.json' is missing", CheckpointError),
    "a folder": (instead("config.json", Path.mkdir), "'config.json' is a folder", CheckpointError),
    "a pipe": (instead("config.json", os.mkfifo), "'config.json' is a pipe", CheckpointError),
    "dangling": (instead("config.json", lambda path: path.symlink_to("absent")), "is a link that leads nowhere", CheckpointError),
    "empty": (content(b""), "not a valid model config", CheckpointError),
    "a list": (content(b"[1]"), "expected a JSON object, got list", CheckpointError),
    "NaN": (content(b'{"a": NaN}'), "NaN is not a JSON number", CheckpointError),
    "infinite": (content(b'{"a": 1e999}'), "contains a non-finite number", CheckpointError),
    "duplicate keys": (content(b'{"a": 1, "a": 2}'), "'a' is duplicated", CheckpointError),
    "50 MB": (content(b'{"a": "' + b"x" * 50_000_000 + b'"}'), "50,000,009 bytes is no model config", CheckpointError),
    "nested": (content(b'{"a": ' * 100_000 + b"1" + b"}" * 100_000), "nested", CheckpointError),
    "Latin-1": (content('{"ä": 1}'.encode("latin-1")), "not a valid model config", CheckpointError),
}

# --- folders that are something else, and side files ------------------------------------------------------------------------

TO_SAFETENSORS = r"Convert it to safetensors first: python -c .*M\.from_pretrained\('.*/foreign', dtype='auto'\)\.save_"
FOREIGN: dict[str, tuple[list[str], str]] = {
    "peft adapter": (["adapter_config.json", "adapter_model.safetensors"], "is a peft adapter. Merge it"),
    "adapter beside a model": (["config.json", WEIGHTS, "adapter_config.json"], "load an adapter on top of it. Remove that file if"),
    "trainer's folder": (
        ["checkpoint-500", "checkpoint-1500", "checkpoint-best"],
        "trainer's output .* such as .*/foreign/checkpoint-1500",
    ),
    "diffusers": (["model_index.json"], "is a diffusers pipeline"),
    "dataset": (["dataset_infos.json"], "is a dataset"),
    "saved dataset": (["dataset_dict.json"], "is a dataset"),
    "parquet": (["train-00000.parquet"], "is a dataset"),
    "pickled": (["config.json", "pytorch_model.bin"], f"pickled PyTorch weights only. {TO_SAFETENSORS}"),
    "pickled shards": (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], f"pickled .*{TO_SAFETENSORS}"),
    "gguf": (["config.json", "model-q4.gguf"], "GGUF weights only. Pass the model"),
    "consolidated": (["params.json", "consolidated.00.pth"], f"consolidated weights only. {TO_SAFETENSORS}"),
    "pth": (["checkpoint.pth"], f"pickled .*{TO_SAFETENSORS}"),
    "nothing": ([], "no model.safetensors and no model.safetensors.index.json"),
}


@pytest.mark.parametrize(("names", "message"), FOREIGN.values(), ids=FOREIGN)
def test_folders_that_are_something_else(tmp_path: Path, names: list[str], message: str) -> None:
    (folder := tmp_path / "foreign").mkdir()
    for name in names:
        (folder / name).write_bytes(b"{}")
    refused(folder, message, SourceError)


def touch_below(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def link(target: str) -> Change:
    return lambda path: path.symlink_to(target)


SIDES: dict[str, tuple[str, Change, str]] = {
    "link out": ("vocab.json", link("/etc/passwd"), "'vocab.json' is a link to '/etc/passwd', outside"),
    "linked folder": ("extra", link("/etc"), "'extra' is a folder"),
    "link to another checkpoint": ("merges.txt", link("../other.txt"), "outside"),
    "device": ("zero", link("/dev/zero"), "'zero' is a pipe, socket or device"),
    "pipe": ("pipe", os.mkfifo, "'pipe' is a pipe, socket or device"),
    "dangling": ("gone", link("absent"), "'gone' is a link that leads nowhere"),
    "newline": ("a\nb", touch_below, r"file name 'a\\nb' has a control character"),
    "backslash": ("evil\\x.json", touch_below, "has a control character, backslash or drive"),
    "not UTF-8": (os.fsdecode(b"\xff\xfe.json"), touch_below, "has a control character, backslash or drive"),
    "twin": ("CHAT_TEMPLATE.jinja", touch_below, "differ only in case"),
    "twin of the config": ("Config.json", touch_below, "differ only in case"),
    "twin of our folder": ("LAYERPRUNE/plan.json", touch_below, "'layerprune' and 'LAYERPRUNE' differ only in case. Rename one of them"),
    "a file as our folder": ("LayerPrune", touch_below, "'layerprune' and 'LayerPrune' differ only in case"),
    "twin of a folder": ("Additional/merges.txt", touch_below, "'Additional' and 'additional' differ only in case"),
    "65 folders": ("/".join("a" * 65) + "/x.txt", touch_below, "the folder 'a/a/.*a/' is more than 64 deep, which no model needs"),
}


@pytest.mark.parametrize(("name", "make", "message"), SIDES.values(), ids=SIDES)
def test_side_files_that_are_refused_by_name(source: Path, name: str, make: Change, message: str) -> None:
    (source.parent / "other.txt").touch()
    make(source / name)
    refused(source, message)


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


# --- shards and their index -------------------------------------------------------------------------------------------------


def index(change: Callable[[dict[str, Any]], object]) -> Change:
    def spoil(folder: Path) -> None:
        value = json.loads((folder / INDEX).read_text())
        change(value)
        (folder / INDEX).write_text(json.dumps(value))

    return spoil


def mapped(places: dict[str, Any]) -> Change:
    return index(lambda value: value["weight_map"].update(places))


def renamed(folder: Path) -> None:
    (folder / INDEX).write_text((folder / INDEX).read_text().replace(SECOND, FIRST.upper()))


def single_file_beside(folder: Path) -> None:
    write_safetensors(folder / WEIGHTS, make_tensors(make_config(tied=False)))
    (folder / SECOND).unlink()


def changed_at_the_end(tensors: Tensors) -> Tensors:
    """One tensor of other bytes, from its last element on."""
    tensors[f"{LAYER}.3.mlp.up_proj.weight"].flat[-1] ^= 1
    return tensors


def read_tensors_of(path: Path) -> Tensors:
    return {name: np.frombuffer(data, np.uint16).reshape(shape) for name, (_, shape, data) in read_file(path)[0].items()}


def as_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is limited to 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def listed(names: list[str]) -> str:
    """How a refusal lists names: the first five, and how many there are."""
    first = ", ".join(f"'{name}'" for name in sorted(names)[:5])
    return f"{len(names)}: {first}{', …' if len(names) > 5 else '.'}"


def two_faults(folder: Path) -> None:
    """The first shard that is refused is the last that is read."""
    mapped({"ghost": FIRST})(folder)
    (folder / SECOND).write_bytes(b"not a header")


ESCAPES = ("/etc/passwd", "../x.safetensors", "a/../../x", "a\\b", "C:x", "x\0y", "", ".", "a//b", "x\ny", 7, None, ["a"], "\ud800")
SHARDS: dict[str, tuple[Change, str]] = {
    **{
        f"mapped to {place!r}": (mapped({f"{LAYER}.0.x": place}), f"{INDEX}: '{LAYER}.0.x' is mapped to .*, outside the checkpoint or no")
        for place in ESCAPES
    },
    **{f"weight map {value!r}": (index(lambda found, value=value: found.update(weight_map=value)), "map' is") for value in (None, {}, "x")},
    "names that differ in case": (renamed, "differ only in case"),
    "in the index only": (mapped({f"ghost.{i}": FIRST for i in range(7)}), f"{FIRST} lacks tensors .*, 7: 'ghost.0', .* 'ghost.4', …"),
    "two faults": (two_faults, f"{FIRST} lacks tensors that the index places there, 1: 'ghost'"),
    "missing": (instead(SECOND), f"{SECOND}' is missing. Fetch it again .hf download"),
    "a folder": (instead(SECOND, Path.mkdir), f"{SECOND}' is a folder"),
    "a pipe": (instead(SECOND, os.mkfifo), f"{SECOND}' is a pipe, socket or device"),
    "a socket": (instead(SECOND, as_socket), f"{SECOND}' is a pipe, socket or device"),
    "a device": (instead(SECOND, link("/dev/zero")), f"{SECOND}' is a pipe, socket or device"),
    "a dangling link": (instead(SECOND, link("absent")), f"{SECOND}' is a link that leads nowhere"),
    "a link to itself": (instead(SECOND, link(SECOND)), f"{SECOND}' is a link that leads nowhere"),
    "a link out": (instead(SECOND, link("/etc/passwd")), f"{SECOND}' is a link to '/etc/passwd', outside the checkpoint"),
    "truncated": (
        lambda folder: os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1),
        rf"{SECOND}: truncated in the tensors, first in '.*': expected [\d,]+ bytes, found [\d,]+",
    ),
    "another single file beside the shards": (
        lambda folder: write_safetensors(folder / WEIGHTS, changed_at_the_end(make_tensors(make_config(tied=False)))),
        f"{WEIGHTS} and the shards of {INDEX} hold different weights, first in '{LAYER}.3.mlp.up_proj.weight'; transformers loads",
    ),
    "part of a model beside the shards": (
        lambda folder: write_safetensors(folder / WEIGHTS, read_tensors_of(folder / FIRST)),
        f"hold different weights, first in .*; transformers loads {WEIGHTS}. Remove that file, or",
    ),
    "another file beside the shards": (lambda folder: (folder / WEIGHTS).write_bytes(b"of an older save"), f"also a complete {INDEX}"),
    "no index": (
        lambda folder: (folder / INDEX).unlink(),
        f"There are shards, 3: '{FIRST}', .* but no {INDEX}, without which transformers",
    ),
    "a Git LFS pointer": (instead(SECOND, lambda path: path.write_bytes(POINTER)), f"{SECOND}: a Git LFS pointer, .*git lfs pull"),
    "a tokenizer that is one": (lambda folder: (folder / "tokenizer.json").write_bytes(POINTER), "tokenizer.json: a Git LFS pointer"),
    "incomplete beside a single file": (single_file_beside, f"is missing. There is also a {WEIGHTS}: remove {INDEX} if"),
}


@pytest.mark.parametrize(("change", "message"), SHARDS.values(), ids=SHARDS)
def test_shards(sharded: Path, change: Change, message: str) -> None:
    change(sharded)
    refused(sharded, message)


@pytest.mark.parametrize("count", [1, 5, 7])
def test_tensors_of_which_index_and_shards_tell_differently(sharded: Path, count: int) -> None:
    own, names = list(read_file(sharded / FIRST)[0]), list(read_file(sharded / SECOND)[0])[:count]
    text = (sharded / INDEX).read_text()
    index(lambda value: [value["weight_map"].pop(name) for name in names])(sharded)
    refused(sharded, f"{SECOND} holds tensors that the index does not name, {listed(names)}")
    (sharded / INDEX).write_text(text)
    tensors = make_tensors(make_config(tied=False))
    write_safetensors(sharded / FIRST, {name: tensors[name] for name in own} | {name: tensors[name] + 1 for name in names})
    refused(sharded, f"{FIRST} and {SECOND} hold different tensors under one name, {listed(names)}")


def test_depth_absent_and_a_shard_too(sharded: Path) -> None:
    """One fault at a time."""
    config(tied=False, text_config__num_hidden_layers=None)(sharded)
    refused(sharded, r"is None, expected .*10,000\. The tensors hold 6 layers\.$", FamilyError)
    (sharded / SECOND).unlink()
    refused(sharded, r"is None, expected .*10,000\.$", FamilyError)


# --- tensors against the config ---------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(names)]


def add(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.uint16)})


NO_PLACE = "Qwen3VLForConditionalGeneration has no place for tensors, 1: '{}'. .* save it with save_pretrained, which leaves them out"
INCOMPLETE: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "layer 5 missing": (without(f"{LAYER}.5."), "num_hidden_layers is 6, but the tensors hold 5 layers: layer 5 is missing"),
    "layer 2 missing": (without(f"{LAYER}.2."), "layer 2 is missing"),
    "no elements": (
        lambda tensors: tensors.update({name: tensor.ravel()[:0] for name, tensor in tensors.items()}),
        r", \[0\], has no elements. So models are saved under ZeRO-3 .* stage3_gather_16bit_weights_on_model_save",
    ),
    **{
        f"under {prefix}": (
            lambda tensors, prefix=prefix: [tensors.update({prefix + name: tensors.pop(name)}) for name in list(tensors)],
            rf"expected decoder layers named {LAYER}.N, found '{prefix}{LAYER}\.'N. {remedy}",
        )
        for prefix, remedy in {
            "base_model.model.": r"It was saved from a peft model: merge_and_unload\(\)",
            "module.": "It was .* save model.module with",
            "_fsdp_wrapped_module.": "It was saved from a model wrapped by FSDP",
            "actor.": "Load it with the class that it was saved from",
        }.items()
    },
    "no layer": (without(f"{LAYER}."), "is 6, but the tensors hold 0 layers: layer 0 is missing"),
    "layer 6 unexpected": (add(f"{LAYER}.6.mlp.up_proj.weight", 3), "is 6, but the tensors hold 7 layers: layer 6 is unexpected"),
    "a tensor fewer": (without(f"{LAYER}.3.mlp.up_proj"), "layer 3 has 10 tensors, expected 11 .*; missing 1: 'mlp.up_proj.weight'"),
    "a tensor more": (add(f"{LAYER}.3.adapter.weight", 3), "layer 3 has 12 tensors, expected 11 .*; unexpected 1: 'adapter.weight'"),
    "odd layer name": (add(f"{LAYER}.extra.weight", 3), NO_PLACE.format(f"{LAYER}.extra.weight")),
    "layer 05": (add(f"{LAYER}.05.x", 3), NO_PLACE.format(f"{LAYER}.05.x")),
    "vision missing": (without("model.visual.blocks.2."), "depth is 3, but the tensors hold 2 vision layers: vision layer 2 is"),
    "embedding missing": (without("model.language_model.embed"), "tensors are missing, 1: 'model.language_model.embed_tokens.weight'"),
    "shape": (add(f"{LAYER}.1.mlp.up_proj.weight", 48, 31), r"up_proj.weight' is BF16 \[48, 31\], its siblings are BF16 \[48, 32\]"),
    "a value head": (add("v_head.summary.weight", 1, 32), NO_PLACE.format("v_head.summary.weight")),
    "optimizer state": (add("optimizer.state.5.exp_avg", 4), NO_PLACE.format("optimizer.state.5.exp_avg")),
    "an adapter": (add("base_model.layers.5.lora_A.weight", 2, 3), NO_PLACE.format("base_model.layers.5.lora_A.weight")),
}


@pytest.mark.parametrize(("change", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_that_do_not_fit_the_config(tmp_path: Path, shards: int, change: Callable[[Tensors], object], message: str) -> None:
    folder = make_checkpoint(tmp_path / "source")
    tensors = make_tensors(make_config())
    change(tensors)
    (folder / WEIGHTS).unlink()
    write_weights(folder, tensors, shards)
    refused(folder, message)


@pytest.mark.parametrize(("change", "message", "kind"), CONFIGS.values(), ids=CONFIGS)
def test_config(source: Path, change: Change, message: str, kind: type[LayerPruneError]) -> None:
    change(source)
    refused(source, message, kind)


def test_quantized_tensors_without_and_with_a_quantization_config(source: Path) -> None:
    (source / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    refused(source, "is I16, expected one of BF16/F16/F32/F64")
    config(quantization_config={"quant_method": "awq"})(source)
    refused(source, "is quantized .*'awq'.*Prune the unquantized", FamilyError)


def test_a_shape_of_300_000_dimensions_is_not_shown_whole(source: Path) -> None:
    content = (source / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, size = json.loads(content[8:end]), len(content) - end
    header["adapters.5.scale"] = {"dtype": "U8", "shape": [0] * 300_000, "data_offsets": [size, size]}
    raw = json.dumps(header).encode()
    (source / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + content[end:])
    refused(source, NO_PLACE.format("adapters.5.scale"))


# --- what the system refuses --------------------------------------------------------------------------------------------------


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


def test_a_folder_that_is_gone(source: Path) -> None:
    shutil.rmtree(source)
    with pytest.raises(SourceError, match=r"no model\.safetensors"):
        Checkpoint.open(source, "tiny")


def test_all_headers_together_are_bounded(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [int.from_bytes(path.read_bytes()[:8], "little") + 8 for path in sorted(sharded.glob("*.safetensors"))]
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", sum(sizes))
    Checkpoint.open(sharded, "tiny")
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", sizes[0] + sizes[1] - 1)
    refused(sharded, f"{SECOND}: the headers of all shards are more than .* which no model needs. Pass another checkpoint")
