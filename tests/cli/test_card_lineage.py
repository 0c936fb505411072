"""Cards of models that were pruned and healed more than once: the whole lineage is told, and its commands reproduce the model."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import PublishError
from hf_layerprune.mini import model_path
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card
from tests.card_commands import commands

Run = Callable[..., SimpleNamespace]
QUICK = "--data mini,count=8 --set batch_size=4"


@pytest.fixture
def done(run_in_process: Run) -> Callable[[str], str]:
    """A function that runs a command line that succeeds, and gives what it printed."""

    def call(line: str) -> str:
        ended = run_in_process(*shlex.split(line.removeprefix("hf-layerprune ")))
        assert ended.returncode == 0, (line, ended.stderr)
        return str(ended.stdout)

    return call


def fingerprint(folder: Path) -> str:
    return Checkpoint.open(folder, folder.name).source.fingerprint


def lineage(folder: Path) -> list[tuple[str, str, str]]:
    steps = json.loads((folder / "layerprune" / "source.json").read_text())["lineage"]
    return [(step["id"], step["how"], step["fingerprint"]) for step in steps]


def test_healed_twice(done: Callable[[str], str], here: Path) -> None:
    """The plan and the last fine-tuning are known; the one between is a line of the lineage."""
    done("convert mini --layers 4,9 -o short")
    done(f"heal short --recipe interlace --tune-last 1 {QUICK} -o h5")
    done(f"heal h5 --recipe interlace {QUICK} --seed 1 -o h6")
    done("card h6")
    card, manifest = (here / "h6" / "README.md").read_text(), Manifest.load(here / "h6" / "layerprune" / "manifest.json")
    before = [("mini", "source", fingerprint(model_path())), ("short", "pruned", fingerprint(here / "short"))]
    assert lineage(here / "h6") == [*before, ("h5", "healed", fingerprint(here / "h5"))] and lineage(here / "h5") == before
    assert "lineage" not in json.loads((here / "short" / "layerprune" / "source.json").read_text())
    assert {*Manifest.load(here / "h5" / "layerprune" / "manifest.json").changed} < {*manifest.changed}
    assert f"Of the {len(manifest.tensors)} tensors, {len(manifest.changed)} were trained afterwards, in 2 fine-tunings; the other" in card
    assert verify(here / "h6", Checkpoint.open(model_path(), "mini")).ok
    assert verify(here / "h6", Checkpoint.open(here / "h5", "h5")).ok
    assert "to `short` (2 of 16 layers by `manual`, `layerprune/plan.json`), healed to `h5` (its record does not lie here)" in card
    assert "How `h5` was made these records do not say" in card
    assert "has the fingerprint of what was healed into h6\n" in done("apply mini h6 -o stage")
    (first := here / "h6").rename(here / "before")
    for line in commands(card):
        done(line)
    assert fingerprint(first) == fingerprint(here / "before")


def test_pruned_after_healing(done: Callable[[str], str], here: Path) -> None:
    """The dense model healed, pruned, and pruned again: the last stage is reproduced from the checkpoint before it."""
    done(f"heal mini --recipe interlace --tune-last 2 {QUICK} -o h1")
    done("convert h1 --layers 4,9 -o p2")
    done("convert p2 --method random --set seed=3 --num-layers 1 -o p3")
    done("card p3")
    card = (here / "p3" / "README.md").read_text()
    assert [step[:2] for step in lineage(here / "p3")] == [("mini", "source"), ("h1", "healed"), ("p2", "pruned")]
    assert (
        "`mini`, fine-tuned (these records do not say how) by hf-layerprune, then with layers removed, then with 1 of its 14 decoder "
        "layers removed; it was not fine-tuned afterwards.\n"
    ) in card
    assert f"All {len(Manifest.load(here / 'p3' / 'layerprune' / 'manifest.json').tensors)} tensors are those of `p2`, bit for bit" in card
    assert "hf-layerprune heal" not in card and "hf-layerprune apply ./p2 layerprune/plan.json" in card
    assert "hf-layerprune plan ./p2 --method random --set seed=3 --num-layers 1 -o plan.json\n" in card
    published = render_card(replace(card_facts(here / "p3"), repo="me/p3"))
    assert "hf-layerprune apply ./p2 me/p3 -o ./again\nhf-layerprune verify ./again --source ./p2\n" in published
    shutil.copytree(here / "p3" / "layerprune", here / "layerprune")
    (here / "p3").rename(here / "before")
    for line in commands(card):
        done(line)
    assert fingerprint(here / "p3") == fingerprint(here / "before")


def test_a_dense_model_healed_twice(done: Callable[[str], str], here: Path) -> None:
    done(f"heal mini --recipe interlace --tune-last 2 {QUICK} -o h1")
    done(f"heal h1 --recipe interlace --tune-last 3 {QUICK} -o h2")
    done("card h2")
    card = (here / "h2" / "README.md").read_text()
    assert "`mini`, no layer removed, fine-tuned (these records do not say how) by hf-layerprune, then for 2 steps more.\n" in card
    assert "the control" not in card and "This is the last of 2 fine-tunings" in card
    assert [shlex.split(line)[-1] for line in commands(card)] == ["./h2", "./h2"]


def test_a_damaged_lineage_is_refused(done: Callable[[str], str], here: Path) -> None:
    done("convert mini --layers 4,9 -o p1")
    done("convert p1 --layers 4 -o p2")
    path = here / "p2" / "layerprune" / "source.json"
    record = json.loads(path.read_text())
    step = record["lineage"][1]
    for wrong in ([], "x", [7], [step, {**step, "how": "stolen"}], [step, {**step, "how": "source"}], [{**step, "id": None}], [step] * 101):
        path.write_text(json.dumps(record | {"lineage": wrong}))
        with pytest.raises(PublishError, match=r"source\.json: the lineage is damaged"):
            card_facts(here / "p2")
    path.write_text(json.dumps(record | {"lineage": record["lineage"][:1]}))
    with pytest.raises(PublishError, match=r"source\.json: its lineage does not end with this model's source"):
        card_facts(here / "p2")
    record.pop("lineage")  # as an older version wrote it
    path.write_text(json.dumps(record))
    assert "`p1` was itself pruned; these records do not say from what." in render_card(card_facts(here / "p2"))
    done("convert p2 --layers 5 -o p3")
    assert [step[:2] for step in lineage(here / "p3")] == [("p1", "source"), ("p2", "pruned")]
