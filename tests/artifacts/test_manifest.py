"""manifest.json: read back as written, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.errors import ArtifactError


@pytest.fixture
def manifest(facts: ModelFacts) -> Manifest:
    files = {"config.json": FileRecord(12, "aa"), "model.safetensors": FileRecord(1 << 40, "bb")}
    return Manifest(facts.source, "1", "source", files, {"layers.1.w": "layers.2.w"})


def test_a_manifest_survives_its_file(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    assert path.read_bytes() == manifest.dump() == Manifest.load(path).dump()
    assert json.loads(path.read_bytes())["files"]["config.json"] == {"bytes": 12, "sha256": "aa"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": 2}, "manifest format 2; this version reads 1. Update hf-layerprune."),
        ({"files": []}, "the manifest is damaged (AttributeError("),
        ({"files": {"a": {"bytes": 1}}}, "the manifest is damaged (KeyError('sha256'))."),
        ({"files": {"a": {"bytes": "many", "sha256": "aa"}}}, "the manifest is damaged (ValueError("),
        ({"files": {"a": {"bytes": 1e400, "sha256": "aa"}}}, "the manifest is damaged (OverflowError("),
        ({"tensors": None}, "the manifest is damaged (AttributeError("),
        ({"source": {"id": "mini"}}, "the manifest is damaged (TypeError("),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(manifest: Manifest, tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(manifest.dump()) | edit).replace("Infinity", "1e400"))
    with pytest.raises(ArtifactError) as caught:
        Manifest.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
