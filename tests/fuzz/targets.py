"""What is fuzzed: from bytes to a weight file, or to a whole checkpoint folder. Nothing but our own one-line errors may come out.

`run.py` looks for new inputs, `test_corpus.py` replays the kept ones. Each target raises only if a promise is broken.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

from hf_layerprune.checkpoint.copying import read_blocks
from hf_layerprune.checkpoint.header import read_header
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import LayerPruneError
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

SEPARATOR = b"\n\0\n"
FILES = ("config.json", "README.md", "model.safetensors.index.json")  # empty: the file is not there; header texts of shards follow
MAX_SHARD_BYTES = 1 << 20
SMALL: dict[str, Any] = {
    "text_config__intermediate_size": 8,
    "text_config__vocab_size": 8,
    "text_config__num_attention_heads": 1,
    "text_config__num_key_value_heads": 1,
    "text_config__head_dim": 2,
    "text_config__layer_types": ["full_attention"] * 4,
    "vision_config__depth": 1,
    "vision_config__deepstack_visual_indexes": [0],
    "vision_config__hidden_size": 4,
    "vision_config__intermediate_size": 4,
    "vision_config__num_position_embeddings": 4,
}


def header(data: bytes, folder: Path) -> str:
    """Take `data` as a weight file. What we accept accounts for every byte, and safetensors' own reader accepts it too."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    try:
        found = read_header(path)
    except LayerPruneError as error:
        return _refusal(error)
    assert found.size == len(data) == found.data_start + sum(span.nbytes for span in found.tensors.values())
    for span in found.tensors.values():
        assert b"".join(map(bytes, read_blocks(path, span.begin, span.end))) == data[span.begin : span.end]
    with safetensors.safe_open(path, "np") as file:
        assert set(file.keys()) == set(found.tensors)
    return "accepted"


def checkpoint(data: bytes, folder: Path) -> str:
    """Take `data` as a folder of files. What opens can be rewritten without its second layer, and proved, or is refused."""
    source = folder / "source"
    write_folder(data, source)
    try:
        opened = Checkpoint.open(source, "fuzzed")
        layers = opened.facts.layers
        rewrite(opened, make_plan(opened, (1,) if layers > 3 else ()), folder / "output")
        assert verify(folder / "output", opened).ok
        return "accepted"
    except LayerPruneError as error:
        assert not (folder / "output").exists()
        return _refusal(error)
    finally:
        shutil.rmtree(folder / "output", ignore_errors=True)
        shutil.rmtree(source)


TARGETS: dict[str, Callable[[bytes, Path], str]] = {"header": header, "checkpoint": checkpoint}


def write_folder(data: bytes, folder: Path) -> None:
    """The files that `data` names; each header gets as many zeros as its greatest offset asks for, and a name from the index."""
    parts = data.split(SEPARATOR)
    folder.mkdir()
    for name, content in zip(FILES, parts, strict=False):
        if content:
            (folder / name).write_bytes(content)
    names = ("a.safetensors", "b.safetensors", "c.safetensors") if (folder / FILES[-1]).exists() else ("model.safetensors",)
    for name, raw in zip(names, parts[len(FILES) :], strict=False):
        ends = [int(number) for number in re.findall(rb'"data_offsets"\s*:\s*\[\s*\d{1,9}\s*,\s*(\d{1,9})\s*\]', raw)]
        size = 8 + len(raw) + min(max(ends, default=0), MAX_SHARD_BYTES)
        (folder / name).write_bytes((len(raw).to_bytes(8, "little") + raw).ljust(size, b"\0"))


def read_folder(folder: Path) -> bytes:
    """The bytes that make `write_folder` write such a folder."""
    files = [(folder / name).read_bytes() if (folder / name).exists() else b"" for name in FILES]
    shards = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    return SEPARATOR.join([*files, *(shard[8 : 8 + int.from_bytes(shard[:8], "little")] for shard in shards)])


def seeds(name: str, folder: Path) -> list[bytes]:
    """Good inputs to begin with: whole tiny checkpoints, in one file and in two."""
    found = []
    for shards in (1, 2):
        source = make_checkpoint(folder / str(shards), layers=4, hidden=4, shards=shards, **SMALL)
        if name == "header":
            found += [path.read_bytes() for path in sorted(source.glob("*.safetensors"))]
        else:
            for path, letter in zip(sorted(source.glob("*.safetensors")), "ab", strict=False):
                if shards > 1:
                    index = (source / FILES[-1]).read_text().replace(path.name, f"{letter}.safetensors")
                    (source / FILES[-1]).write_text(json.dumps(json.loads(index)))
                    path.rename(source / f"{letter}.safetensors")
            found.append(read_folder(source))
        shutil.rmtree(source)
    return found


def _refusal(error: LayerPruneError) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 2000, text
    return text
