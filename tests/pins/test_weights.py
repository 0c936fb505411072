"""sha256 of what `apply` writes, our records aside: weights, index, config and side files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pins.commands import Pinned, run, snapshot
from tests.pins.static_checkpoint import by_layer, dense_shapes, in_shards, moe_shapes, write_dense, write_moe

RECORDS = "layerprune"


@dataclass(frozen=True)
class Case:
    """write: makes the source in a folder that is not there yet, None for mini; plan, apply: options of these commands."""

    write: Callable[[Path], Path] | None
    plan: str
    apply: str = ""


DENSE = dense_shapes(tied=False)
CASES = {
    "mini": Case(None, "--layers 4,9"),
    "tied": Case(lambda folder: write_dense(folder), "--layers 3"),
    "untied": Case(lambda folder: write_dense(folder, tied=False), "--layers 1,3 --protect first,last"),
    "moe as released": Case(lambda folder: write_moe(folder, False, in_shards(moe_shapes(False), 3)), "--layers 3"),
    "moe as resaved": Case(lambda folder: write_moe(folder, True), "--layers 1,2 --protect first,last"),
    "many shards": Case(lambda folder: write_dense(folder, False, in_shards(DENSE, 12)), "--layers 2,4"),
    "a shard a layer": Case(lambda folder: write_dense(folder, True, by_layer(dense_shapes())), "--layers 3"),
    "max-shard-size": Case(lambda folder: write_dense(folder, False), "--layers 3", "--max-shard-size 20kB"),
    "one file of three": Case(lambda folder: write_dense(folder, False, in_shards(DENSE, 3)), "--layers 3", "--max-shard-size 1GB"),
}


def digests(folder: Path) -> dict[str, str]:
    """sha256 by name of every file below a folder but our records."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name.parts[0] != RECORDS}


def applied(here: Path, source: str, output: str, plan: str, options: str = "") -> dict[str, str]:
    """What `apply` wrote of a source by a plan for it."""
    for command in (f"plan {source} {plan} -o {output}.json", f"apply {source} {output}.json -o {output} {options}"):
        done = run(here, *command.split())
        assert done.code == 0, done.err
    return digests(here / output)


@pytest.mark.parametrize("name", CASES)
def test_what_apply_writes(tmp_path: Path, pinned: Pinned, name: str) -> None:
    case, source = CASES[name], "mini"
    if case.write:
        source = case.write(tmp_path / "source").name
        pinned(f"{name}: source", digests(tmp_path / source))  # if this differs, it is not the product that changed
    before = snapshot(tmp_path / source)
    pinned(name, applied(tmp_path, source, "output", case.plan, case.apply))
    assert snapshot(tmp_path / source) == before


def test_what_was_pruned_is_pruned_again(tmp_path: Path, pinned: Pinned) -> None:
    write_moe(tmp_path / "source", resaved=False)
    applied(tmp_path, "source", "once", "--layers 1,4 --protect first,last")
    pinned("pruned again", applied(tmp_path, "once", "twice", "--layers 2 --protect first,last"))
