"""A checkpoint with some tensors' bytes from elsewhere, once and again: each is proved against what it was made of."""

from __future__ import annotations

import os
from pathlib import Path

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import write_healed
from hf_layerprune.checkpoint.verify import verify
from tests.checkpoint.independent import read_model
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_plan

FIRST, SECOND = "model.language_model.layers.0.mlp.up_proj.weight", "model.language_model.layers.1.mlp.up_proj.weight"


def trained(source: Path, output: Path, *names: str) -> Checkpoint:
    """The checkpoint with random bytes in these tensors, proved against the source."""
    checkpoint = Checkpoint.open(source, source.name)
    values = output.with_suffix(".bin")
    spans, end = {}, 0
    for name in names:
        span = checkpoint.tensors[name]
        spans[name], end = TensorSpan(values, span.dtype, span.shape, end, end + span.nbytes), end + span.nbytes
    values.write_bytes(os.urandom(end))
    write_healed(checkpoint, spans, output, overwrite=False, records={})
    result = verify(output, checkpoint)
    assert result.ok and result.changed == len(names)
    return Checkpoint.open(output, output.name)


def test_trained_twice_is_proved_against_both_and_against_what_was_pruned(source: Path, tmp_path: Path) -> None:
    """Of the second only its own tensors are believed against the first; both are against the one before."""
    original = Checkpoint.open(source, "tiny")
    rewrite(original, make_plan(original, (3,)), tmp_path / "pruned")
    first = trained(tmp_path / "pruned", tmp_path / "first", FIRST)
    second = trained(tmp_path / "first", tmp_path / "second", SECOND)
    manifests = [Manifest.load(checkpoint.path / "layerprune/manifest.json") for checkpoint in (first, second)]
    assert [(manifest.changed, manifest.trained) for manifest in manifests] == [((FIRST,), ()), ((FIRST, SECOND), (SECOND,))]
    assert verify(first.path, original).changed == 1
    both = verify(second.path, original)
    assert both.ok and both.changed == 2
    before, after = read_model(first.path), read_model(second.path)
    assert [name for name in before if before[name] != after[name]] == [SECOND]


def test_a_tensor_of_the_first_training_that_the_second_lost(source: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "first", FIRST)
    second = trained(tmp_path / "first", tmp_path / "second", SECOND)
    span = second.tensors[FIRST]
    with span.file.open("r+b") as file:
        file.seek(span.begin)
        file.write(bytes(span.nbytes))
    found = verify(second.path, Checkpoint.open(tmp_path / "first", "first")).differences
    assert [line for line in found if line.startswith("tensor ")] == [f"tensor '{FIRST}' is not the source's '{FIRST}'"]


def test_the_same_tensors_again(source: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "first", FIRST, SECOND)
    trained(tmp_path / "first", tmp_path / "second", SECOND, FIRST)
    assert Manifest.load(tmp_path / "second/layerprune/manifest.json").trained == ()
