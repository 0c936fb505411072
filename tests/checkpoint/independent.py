"""Read checkpoints with struct and json alone: the tests' own opinion, sharing no code with the package."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

Tensor = tuple[str, tuple[int, ...], bytes]
LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.(.+)")


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], tuple(entry["shape"]), data[begin:end])
    assert sum(len(tensor[2]) for tensor in tensors.values()) == len(data)
    return tensors, metadata


def read_model(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, through its index if it has one; the index must be right."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_file(folder / "model.safetensors")[0]
    value = json.loads(index.read_text())
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(value["weight_map"].values())):
        found, _ = read_file(folder / shard)
        assert all(value["weight_map"][name] == shard for name in found) and not tensors.keys() & found.keys()
        tensors |= found
    assert tensors.keys() == value["weight_map"].keys()
    assert value["metadata"]["total_size"] == sum(len(tensor[2]) for tensor in tensors.values())
    return tensors


def alignment_faults(path: Path) -> list[str]:
    """What is wrong with a written file's layout: data and each tensor of whole cache lines at 64 bytes, others at their type's width."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    raw = content[8 : 8 + length]
    header = json.loads(raw)
    faults = [] if (8 + length) % 64 == 0 and len(raw) - len(raw.rstrip(b" ")) < 64 else ["header"]
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            number = re.search(r"\d+", entry["dtype"])
            width = max(1, int(number[0]) // 8) if number else 1
            if begin % (64 if (end - begin) % 64 == 0 else width):
                faults.append(name)
    return faults


def pruned(tensors: dict[str, Tensor], keep: list[int]) -> dict[str, Tensor]:
    """What must be left of a model's tensors when only the layers `keep` stay."""
    result = {}
    for name, tensor in tensors.items():
        if match := LAYER.fullmatch(name):
            if int(match[1]) in keep:
                result[f"model.language_model.layers.{keep.index(int(match[1]))}.{match[2]}"] = tensor
        else:
            result[name] = tensor
    return result


def snapshot(folder: Path) -> dict[str, Any]:
    """Every name below a folder with its kind, content and times: equal before and after means untouched."""
    state: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        state[str(path.relative_to(folder))] = (info.st_mode, info.st_mtime_ns, content)
    return state
