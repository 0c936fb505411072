"""Each type of safetensors survives a rewrite, as safetensors' own reader and an independent one see the output."""

from __future__ import annotations

import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors

from hf_layerprune.checkpoint.header import DTYPE_BITS
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from tests.checkpoint.independent import pruned, read_model
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

# Bits of a number, by the specification: safetensors' tensor.rs, https://github.com/huggingface/safetensors.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip
# None has as many rows as the model has layers: such a tensor is refused.
SHAPES = {"flat": (8,), "matrix": (3, 4), "deep": (1, 2, 1, 4), "empty": (0,), "empty matrix": (5, 0, 2), "single": (), "large": (8, 2050)}


def test_these_are_all_the_types_there_are() -> None:
    """safetensors names them itself when it does not know one."""
    header = b'{"x":{"dtype":"F7","shape":[],"data_offsets":[0,0]}}'
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(struct.pack("<Q", len(header)) + header)
    named = set(re.findall(r"`(\w+)`", str(caught.value).partition("expected")[2]))
    assert named == BITS.keys() == DTYPE_BITS.keys() and len(named) == 22


def tensors_of(dtype: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """A tensor of each shape whose bits fill whole bytes, of random bytes; of the smallest types a single number does not."""
    rng, tensors = random.Random(dtype), {}
    for what, shape in SHAPES.items():
        bits = BITS[dtype]
        for dimension in shape:
            bits *= dimension
        if bits % 8 == 0:
            tensors[f"mtp.{dtype}.{what}"] = (dtype, shape, rng.randbytes(bits // 8))
    assert len(tensors) >= len(SHAPES) - (BITS[dtype] < 8)
    return tensors


def add(folder: Path, extra: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Put tensors before and behind those of a weight file, which so begin at an odd byte."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    front = [(name, tensor) for number, (name, tensor) in enumerate(extra.items()) if number % 2]
    back = [(name, tensor) for number, (name, tensor) in enumerate(extra.items()) if number % 2 == 0]
    entries: dict[str, Any] = {}
    blocks: list[bytes] = []
    end = 0

    def place(name: str, dtype: str, shape: Any, block: bytes) -> None:
        nonlocal end
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(block)]}
        end += len(block)
        blocks.append(block)

    place("mtp.odd", "U8", (3,), b"odd")
    for name, tensor in front:
        place(name, *tensor)
    for name, entry in header.items():
        if name != "__metadata__":
            place(name, entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
    for name, tensor in back:
        place(name, *tensor)
    raw = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(blocks))


def read_by_safetensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = safetensors.deserialize(path.read_bytes())
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found}


@pytest.mark.parametrize("limit", [None, 20_000], ids=["one shard", "many shards"])
@pytest.mark.parametrize("dtypes", [*([dtype] for dtype in BITS), [*BITS]], ids=[*BITS, "all at once"])
def test_a_type_survives(tmp_path: Path, dtypes: list[str], limit: int | None) -> None:
    source, output = make_checkpoint(tmp_path / "source", layers=4), tmp_path / "output"
    extra = {name: tensor for dtype in dtypes for name, tensor in tensors_of(dtype).items()}
    add(source, extra)
    checkpoint = Checkpoint.open(source, "tiny")
    rewrite(checkpoint, make_plan(checkpoint, (1,)), output, max_shard_size=limit)
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 1 if limit else len(files) == 1
    found = [read_by_safetensors(path) for path in files]
    together = {name: tensor for file in found for name, tensor in file.items()}
    assert len(together) == sum(map(len, found))
    assert {name: together[name] for name in extra} == extra
    assert together == read_model(output) == pruned(read_by_safetensors(source / "model.safetensors"), [0, 2, 3])
    assert verify(output, checkpoint).ok
