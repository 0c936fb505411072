"""mini and what was pruned of it as models on a loopback Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.hub.loopback import LoopbackHub
from tests.hub.state import Files, Repo

SOURCE, PRUNED = "Qwen/Tiny-VL", "me/tiny-13L"
WEIGHTS = "model.safetensors"
CARDS = Path(__file__).parents[2] / "cards"


def content(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_weights(files: Files, weights: bytes, **changed: object) -> Files:
    """A model with other weights, and a manifest that says so."""
    manifest = json.loads(files["layerprune/manifest.json"]) | changed
    manifest["files"][WEIGHTS] = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    return {**files, WEIGHTS: weights, "layerprune/manifest.json": json.dumps(manifest).encode()}


def write(folder: Path, files: Files) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def put(hub: LoopbackHub, name: str, files: Files) -> str:
    hub.repos[name] = Repo()
    return hub.repos[name].push(files)
