"""Weight files, their index and the config must tell the same; everything that does not is refused."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.checkpoint.header import Header, TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import LocalShards, read_shards
from tests.checkpoint.independent import read_file
from tests.checkpoint.refusing import refused
from tests.tiny_checkpoint import make_checkpoint, make_config, make_tensors, write_safetensors, write_weights

LAYER = "model.language_model.layers"
INDEX = "model.safetensors.index.json"


def change_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


ESCAPES = [
    "/etc/passwd",
    "../x.safetensors",
    "a/../../x",
    "a\\b",
    "C:x.safetensors",
    "x\0y",
    "",
    ".",
    "a//b",
    "x\ny",
    7,
    None,
    ["a"],
    "\ud800",
]


@pytest.mark.parametrize("path", ESCAPES, ids=repr)
def test_weight_map_that_leads_out(sharded: Path, path: Any) -> None:
    change_index(sharded, lambda index: index["weight_map"].update({f"{LAYER}.0.mlp.up_proj.weight": path}))
    refused(sharded, f"index.json: '{LAYER}.0.mlp.up_proj.weight' is mapped to .*, outside the checkpoint or no portable")


def remap(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(index: dict[str, Any]) -> None:
        index["weight_map"] = {name: new if shard == old else shard for name, shard in index["weight_map"].items()}

    return change


FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"


def test_names_that_differ_in_case(sharded: Path) -> None:
    change_index(sharded, remap(SECOND, FIRST.upper()))
    refused(sharded, "differ only in case")


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_no_weight_map(sharded: Path, weight_map: Any) -> None:
    change_index(sharded, lambda index: index.update(weight_map=weight_map))
    refused(sharded, "'weight_map' is")


def test_tensor_in_the_index_only(sharded: Path) -> None:
    change_index(sharded, lambda index: index["weight_map"].update({f"ghost.{i}": FIRST for i in range(7)}))
    refused(sharded, f"{FIRST} lacks tensors that the index places there, 7: 'ghost.0', .* 'ghost.4', …")


def listed(names: list[str]) -> str:
    """How a refusal lists names: the first five, and how many there are."""
    first = ", ".join(f"'{name}'" for name in sorted(names)[:5])
    return f"{len(names)}: {first}{', …' if len(names) > 5 else '.'}"


@pytest.mark.parametrize("count", [1, 5, 7])
def test_tensors_in_a_shard_only(sharded: Path, count: int) -> None:
    names = list(read_file(sharded / SECOND)[0])[:count]
    change_index(sharded, lambda index: [index["weight_map"].pop(name) for name in names] and None)
    refused(sharded, f"{SECOND} holds tensors that the index does not name, {listed(names)}")


@pytest.mark.parametrize("count", [1, 5, 7])
def test_tensors_in_two_shards(sharded: Path, count: int) -> None:
    tensors = make_tensors(make_config(tied=False))
    own, others = list(read_file(sharded / FIRST)[0]), list(read_file(sharded / SECOND)[0])[:count]
    write_safetensors(sharded / FIRST, {name: tensors[name] for name in [*own, *others]})
    refused(sharded, f"{FIRST} holds tensors that the index places in another shard, {listed(others)}")


def test_the_first_shard_that_is_refused_is_the_last_that_is_read(sharded: Path) -> None:
    change_index(sharded, lambda index: index["weight_map"].update(ghost=FIRST))
    (sharded / SECOND).write_bytes(b"not a header")
    refused(sharded, f"{FIRST} lacks tensors that the index places there, 1: 'ghost'")


def test_all_headers_together_are_bounded(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [int.from_bytes(path.read_bytes()[:8], "little") + 8 for path in sorted(sharded.glob("*.safetensors"))]
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", sum(sizes))
    Checkpoint.open(sharded, "tiny")
    monkeypatch.setattr("hf_layerprune.checkpoint.shards.MAX_HEADERS_BYTES", sizes[0] + sizes[1] - 1)
    refused(sharded, f"{SECOND}: the headers of all shards are more than .* which no model needs. Pass another checkpoint")


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


def as_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is limited to 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "is missing"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a pipe": (os.mkfifo, "is a pipe, socket or device"),
    "a socket": (as_socket, "is a pipe, socket or device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device"),
    "a dangling link": (lambda path: path.symlink_to("absent"), "is a link that leads nowhere"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "is a link that leads nowhere"),
    "a link out": (lambda path: path.symlink_to("/etc/passwd"), "is a link to '/etc/passwd', outside the checkpoint"),
}


@pytest.mark.parametrize(("make", "message"), SHARDS.values(), ids=SHARDS)
def test_shard_that_is_no_file(sharded: Path, make: Callable[[Path], object], message: str) -> None:
    (sharded / SECOND).unlink()
    make(sharded / SECOND)
    refused(sharded, f"{SECOND}' {message}.*")


def test_missing_shard_says_how_to_fetch_it(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    refused(sharded, "is missing. Fetch it again .hf download")


def test_truncated_shard(sharded: Path) -> None:
    size = (sharded / SECOND).stat().st_size
    os.truncate(sharded / SECOND, size - 1)
    refused(sharded, f"{SECOND}: truncated in the tensors, first in '.*': expected {size:,} bytes, found {size - 1:,}")


def test_complete_index_wins_over_a_single_file(sharded: Path) -> None:
    (sharded / "model.safetensors").write_bytes(b"of an older save")
    checkpoint = Checkpoint.open(sharded, "tiny")
    assert len(checkpoint.shards) == 3 and "left out, 1: 'model.safetensors'" in checkpoint.notes[0]


def test_incomplete_index_beside_a_single_file(sharded: Path) -> None:
    write_safetensors(sharded / "model.safetensors", make_tensors(make_config(tied=False)))
    (sharded / SECOND).unlink()
    refused(sharded, f"is missing. There is also a model.safetensors: remove {INDEX} if")


# --- tensors against the config -------------------------------------------------------------------------------------------

Tensors = dict[str, np.ndarray]


def without(*names: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(names)] and None


def add(name: str, shape: tuple[int, ...] = (3,)) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.uint16)})


INCOMPLETE: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "layer 5 missing": (without(f"{LAYER}.5."), "num_hidden_layers is 6, but the tensors hold 5 layers: layer 5 is missing"),
    "layer 2 missing": (without(f"{LAYER}.2."), "layer 2 is missing"),
    "no layer": (without(f"{LAYER}."), "is 6, but the tensors hold 0 layers: layer 0 is missing"),
    "layer 6 surplus": (add(f"{LAYER}.6.mlp.up_proj.weight"), "is 6, but the tensors hold 7 layers: layer 6 is unexpected"),
    "a tensor fewer": (without(f"{LAYER}.3.mlp.up_proj"), "layer 3 has 10 tensors, expected 11 .*; missing 1: 'mlp.up_proj.weight'"),
    "a tensor more": (add(f"{LAYER}.3.adapter.weight"), "layer 3 has 12 tensors, expected 11 .*; unexpected 1: 'adapter.weight'"),
    "odd layer name": (add(f"{LAYER}.extra.weight"), f"'{LAYER}.extra.weight', .3., is not declared and seems to depend"),
    "layer 05": (add(f"{LAYER}.05.x"), "is not declared and seems to depend on the 6 layers"),
    "vision missing": (
        without("model.visual.blocks.2."),
        "depth is 3, but the tensors hold 2 vision layers: vision layer 2 is",
    ),
    "embedding missing": (without("model.language_model.embed"), "tensors are missing, 1: 'model.language_model.embed_tokens.weight'"),
    "shape": (add(f"{LAYER}.1.mlp.up_proj.weight", (48, 31)), r"up_proj.weight' is BF16 \[48, 31\], its siblings are BF16 \[48, 32\]"),
    "numbered to the last layer": (add("adapters.5.scale"), "'adapters.5.scale', .3., is not declared and seems to depend"),
    "one entry a layer": (add("layer_scale", (6,)), r"'layer_scale', \[6\], is not declared and seems to depend on the 6 layers"),
}


@pytest.mark.parametrize(("change", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_that_do_not_fit_the_config(tmp_path: Path, shards: int, change: Callable[[Tensors], None], message: str) -> None:
    folder = make_checkpoint(tmp_path / "source")
    tensors = make_tensors(make_config())
    change(tensors)
    (folder / "model.safetensors").unlink()
    write_weights(folder, tensors, shards)
    refused(folder, message)


def test_depth_in_the_config_differs_from_the_tensors(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(make_config(layers=36)))
    refused(source, "num_hidden_layers is 36, but the tensors hold 6 layers: layer 6 is missing")


def test_quantized_tensors_without_a_quantization_config(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    refused(source, "is I16, expected one of BF16/F16/F32/F64")


def test_untied_without_head(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(make_config(tied=False)))
    refused(source, r"1: 'lm_head.weight' \(lm_head.weight may be left out only if tie_word_embeddings is true\)")


def test_tied_flag_inside_the_text_section_does_not_count(source: Path) -> None:
    (source / "config.json").write_text(json.dumps(make_config(tied=False, text_config__tie_word_embeddings=True)))
    refused(source, "lm_head.weight")


def test_tied_with_head_is_kept_and_said(source: Path, rewritten_weights: Callable[..., Path]) -> None:
    rewritten_weights(make_tensors(make_config(tied=False)))
    checkpoint = Checkpoint.open(source, "tiny")
    assert not checkpoint.tied and "lm_head.weight is on disk: it is kept" in checkpoint.notes[0]


def test_tensors_of_no_known_place_are_kept_and_said(source: Path, rewritten_weights: Callable[..., Path]) -> None:
    tensors = make_tensors(make_config())
    rewritten_weights(tensors | {f"mtp.layers.{i}.norm.weight": np.ones(4, np.uint16) for i in range(2)})
    assert "no known place are kept, 2: 'mtp.layers.0.norm.weight'" in Checkpoint.open(source, "tiny").notes[0]
