"""Any legal safetensors files around a model, in any order, type and split, survive with every kept tensor identical."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from hf_layerprune.checkpoint.completeness import FLOATS
from hf_layerprune.checkpoint.header import DTYPE_BITS
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from tests.checkpoint.independent import alignment_faults, pruned, read_model
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_config, make_plan, make_tensors

NAMES = st.text(st.characters(exclude_categories=["Cs", "Nd"]), min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8]), max_size=4)


@st.composite
def extra_tensors(draw: Any) -> dict[str, tuple[str, list[int], bytes]]:
    """Tensors that the model's class ignores: any name, type and shape."""
    tensors = {}
    for name in draw(st.lists(NAMES, max_size=5, unique_by=str.casefold)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPE_BITS))), draw(SHAPES)
        bits = DTYPE_BITS[dtype]
        for dimension in shape:
            bits *= dimension
        if bits % 8 == 0:
            tensors[f"mtp.{name}"] = (dtype, shape, draw(st.binary(min_size=bits // 8, max_size=bits // 8)))
    return tensors


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None, padding: int) -> None:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"data_offsets": [offset, offset + len(data)], "shape": shape, "dtype": dtype}
        offset += len(data)
    raw = json.dumps(header, ensure_ascii=padding % 2 == 0).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values()))


def of_a_float_type(rng: random.Random, name: str, shape: list[int], types: dict[str, str]) -> tuple[str, list[int], bytes]:
    """Any type, but the same in all layers: those that differ from their siblings are no legal model."""
    dtype = types.setdefault(re.sub(r"\.[0-9]+\.", ".*.", name), rng.choice(FLOATS))
    return dtype, shape, rng.randbytes(math.prod(shape) * DTYPE_BITS[dtype] // 8)


def by_safetensors(folder: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Shape and bytes of all tensors, as the format's own library reads them."""
    found = [entry for path in sorted(folder.glob("*.safetensors")) for entry in deserialize(path.read_bytes())]
    return {name: (tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    extra=extra_tensors(),
    shards=st.integers(1, 4),
    metadata=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    drop=st.sets(st.integers(0, 5), min_size=1, max_size=3),
    limit=st.none() | st.integers(1, 200_000),
    tied=st.booleans(),
)
def test_kept_tensors_are_identical(
    tmp_path_factory: Any, seed: int, extra: Any, shards: int, metadata: Any, drop: Any, limit: Any, tied: bool
) -> None:
    folder = tmp_path_factory.mktemp("legal")
    config, rng, types = make_config(tied=tied), random.Random(seed), dict[str, str]()
    tensors = extra | {name: of_a_float_type(rng, name, list(array.shape), types) for name, array in make_tensors(config).items()}
    order = rng.sample(sorted(tensors), len(tensors))
    (folder / "source").mkdir()
    (folder / "source" / "config.json").write_text(json.dumps(config))
    places = {name: rng.randint(1, shards) for name in order} if shards > 1 else dict.fromkeys(order, 1)
    used = sorted(set(places.values()))
    for number in used:
        name = "model.safetensors" if shards == 1 else f"part {number}.safetensors"
        write(folder / "source" / name, {key: tensors[key] for key in order if places[key] == number}, metadata, rng.randint(0, 9))
    if shards > 1:
        size = sum(len(data) for _, _, data in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": {name: f"part {number}.safetensors" for name, number in places.items()}}
        (folder / "source" / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint.open(folder / "source", "legal")
    rewrite(checkpoint, make_plan(checkpoint, tuple(sorted(drop))), folder / "output", max_shard_size=limit)
    assert read_model(folder / "output") == pruned(read_model(folder / "source"), sorted({*range(6)} - drop))
    assert not any(alignment_faults(path) for path in (folder / "output").glob("*.safetensors"))
    assert verify(folder / "output", checkpoint).ok
    assert by_safetensors(folder / "output") == {name: (shape, data) for name, (_, shape, data) in read_model(folder / "output").items()}
    shutil.rmtree(folder)
