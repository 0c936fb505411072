"""SIGKILL before a rewrite's steps on the file system and at random moments: the old state or the new, and a re-run works.

Blocks are of one page, so that most steps write a full block. A new folder is killed before each of its steps, more than 200; one that
replaces another before 40 of them and each of the last 50.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from hf_layerprune.checkpoint import copying
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from tests.checkpoint.independent import pruned, read_model, snapshot
from tests.checkpoint.killing import die_at, die_within, in_a_fork
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

LAST = 50  # steps that are all tried: making folders durable, putting the new one in place, removing the old one
SAMPLED = 40  # of the steps before these, where not every one is tried


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwrite"])
def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and without effect where a process dies and the machine lives on
    checkpoint = Checkpoint.open(
        make_checkpoint(tmp_path / "source", layers=4, shards=2, text_config__vocab_size=96 if replacing else 8000), "tiny"
    )
    old_plan, plan = make_plan(checkpoint, (2,)), make_plan(checkpoint, (1,))
    old, new = (pruned(read_model(checkpoint.path), keep) for keep in ([0, 1, 3], [0, 2, 3]))
    source, output = snapshot(checkpoint.path), tmp_path / "output"

    def run(step: int) -> tuple[int, list[int]]:
        def work() -> int:
            copying.BLOCK_BYTES = 4096
            count = die_at(step)
            rewrite(checkpoint, plan, output, overwrite=replacing)
            return count()

        return in_a_fork(work)

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        if replacing:
            rewrite(checkpoint, old_plan, output)

    prepare()
    _, [total] = run(0)
    found = []
    first = range(1, total - LAST, (total // SAMPLED) if replacing else 1)
    for step in [*first, *range(total - LAST, total + 1)]:
        prepare()
        assert os.WIFSIGNALED(run(step)[0]), f"step {step} of {total}"
        found.append(read_model(output) if output.exists() else None)
        assert found[-1] is None or verify(output).ok
        # Where neither folder stands there, the re-run puts the old one back first.
        rewrite(checkpoint, plan, output, overwrite=True)
        assert read_model(output) == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"], f"killed before step {step}"
    assert len(found) > (70 if replacing else 200)
    # A folder is replaced by two renames: at one instant of all none stands under the name.
    assert [model in ((old, new) if replacing else (None, new)) for model in found].count(False) == replacing
    assert found[0] == (old if replacing else None) and found[-1] == new
    assert snapshot(checkpoint.path) == source


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "overwrite"])
def test_killed_at_random_moments(tmp_path: Path, replacing: bool) -> None:
    """Whatever the process was doing then, reading, hashing or waiting for the disk."""
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "source", shards=2, text_config__vocab_size=60_000), "tiny")
    source, output, plan = snapshot(checkpoint.path), tmp_path / "output", make_plan(checkpoint, (1,))
    old, new = (pruned(read_model(checkpoint.path), keep) for keep in ([0, 1, 3, 4, 5], [0, 2, 3, 4, 5]))
    began = time.perf_counter()
    rewrite(checkpoint, plan, output)
    longest, rng, found = 1.2 * (time.perf_counter() - began), random.Random(0), []
    for _ in range(30):
        if replacing:
            rewrite(checkpoint, make_plan(checkpoint, (2,)), output, overwrite=True, verify=False)
        else:
            shutil.rmtree(output, ignore_errors=True)
        die_within(rng.uniform(0, longest), lambda: rewrite(checkpoint, plan, output, overwrite=replacing))
        model = read_model(output) if output.exists() else None
        assert model in ((old, new, None) if replacing else (None, new))  # None between two renames
        found.append(model == new)
    rewrite(checkpoint, plan, output, overwrite=True)
    assert read_model(output) == new and sorted(path.name for path in tmp_path.iterdir()) == ["output", "source"]
    assert False in found and snapshot(checkpoint.path) == source
