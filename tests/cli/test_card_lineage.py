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

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import PublishError
from hf_layerprune.mini import model_path
from hf_layerprune.publishing.card import card_facts, render_card
from tests.card_commands import command, commands

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


def again(done: Callable[[str], str], here: Path, name: str) -> Path:
    """A model as the commands of its card make it of its records, where nothing else lies."""
    first = here.parent / "first"
    here.rename(first)
    here.mkdir()
    shutil.copytree(first / name / "layerprune", here / "layerprune")
    for line in commands((first / name / "README.md").read_text()):
        done(line)
    return here / name


def test_healed_twice(done: Callable[[str], str], here: Path) -> None:
    done("convert mini --layers 4,9 -o short")
    done(f"heal short --recipe interlace --tune-last 1 {QUICK} -o h5")
    done(f"heal h5 --recipe interlace {QUICK} --seed 1 -o h6")
    done("card h6")
    card, manifest = (here / "h6" / "README.md").read_text(), Manifest.load(here / "h6" / "layerprune" / "manifest.json")
    mini = fingerprint(model_path())
    assert lineage(here / "h6") == [
        ("mini", "source", mini),
        ("short", "pruned", fingerprint(here / "short")),
        ("h5", "healed", fingerprint(here / "h5")),
    ]
    assert lineage(here / "h5") == lineage(here / "h6")[:2]
    first = HealingRecord.load(here / "h6" / "layerprune" / "healing-2.json")
    assert first == HealingRecord.load(here / "h5" / "layerprune" / "healing.json")
    assert "lineage" not in json.loads((here / "short" / "layerprune" / "source.json").read_text())

    assert "`mini` with 2 of its 16 decoder layers removed by hf-layerprune, then fine-tuned for 2 steps, then for 2 steps more.\n" in card
    earlier = Manifest.load(here / "h5" / "layerprune" / "manifest.json").changed
    assert {*earlier} < {*manifest.changed}
    assert f"Of the {len(manifest.tensors)} tensors, {len(manifest.changed)} were trained afterwards, in 2 fine-tunings; the other" in card
    assert verify(here / "h6", Checkpoint.open(model_path(), "mini")).ok
    assert verify(here / "h6", Checkpoint.open(here / "h5", "h5")).ok
    assert f"the one with the fingerprint `{fingerprint(here / 'short')}`" in card
    chain = "Lineage: `mini`, pruned to `short` (2 of 16 layers by `manual`, `layerprune/plan.json`), healed to `h5` (2 steps by "
    chain += "`interlace`, seed 0, `layerprune/healing-2.json`), healed to this model (2 steps by `interlace`, seed 1, "
    assert chain in card and ["--tune-last" in line for line in commands(card) if " heal " in line] == [True, False]
    assert "has the fingerprint of what was healed into h6\n" in done("apply mini h6 -o stage")
    made = fingerprint(here / "h6")
    assert fingerprint(again(done, here, "h6")) == made


def test_pruned_after_healing(done: Callable[[str], str], here: Path) -> None:
    """The dense model healed, pruned, and pruned again; then from records that lack a step."""
    done(f"heal mini --recipe interlace --tune-last 2 {QUICK} -o h1")
    done("convert h1 --layers 4,9 -o p2")
    done("convert p2 --method random --set seed=3 --num-layers 1 -o p3")
    done("card p3")
    card, records = (here / "p3" / "README.md").read_text(), here / "p3" / "layerprune"
    assert [step[:2] for step in lineage(here / "p3")] == [("mini", "source"), ("h1", "healed"), ("p2", "pruned")]
    assert {"healing-1.json", "plan-2.json", "plan.json"} <= {path.name for path in records.iterdir()}
    assert (
        "`mini`, fine-tuned for 2 steps by hf-layerprune, then with 2 of its 16 decoder layers removed, then with 1 of its 14 decoder "
        "layers removed; it was not fine-tuned afterwards.\n"
    ) in card
    assert f"All {len(Manifest.load(records / 'manifest.json').tensors)} tensors are those of `p2`, bit for bit" in card
    weights = fingerprint(here / "h1")
    assert f"for the very weights with the fingerprint `{weights}`: where `heal` gave others, `apply` refuses them." in card
    assert "--tune-last 2" in command(card, "heal") and "apply ./h1 layerprune/plan-2.json -o ./p2" in card
    assert "hf-layerprune plan ./p2 --method random --set seed=3 --num-layers 1 -o plan.json\n" in card
    published = render_card(replace(card_facts(here / "p3"), repo="me/p3"))
    assert "```sh\nhf download me/p3 --include 'layerprune/*' --local-dir .\nhf-layerprune heal mini " in published
    assert "hf-layerprune apply ./p2 me/p3 -o ./again\nhf-layerprune verify ./again --source ./p2\n" in published
    made = fingerprint(here / "p3")
    assert fingerprint(again(done, here, "p3")) == made

    (lacking := here.parent / "first" / "p3" / "layerprune" / "plan-2.json").unlink()
    card = render_card(card_facts(here.parent / "first" / "p3"))
    assert "then with layers removed, then with 1 of its 14" in card and "pruned to `p2` (its record does not lie here)" in card
    assert "How `p2` was made these records do not say, so that it cannot be reproduced from them." in card
    assert "hf-layerprune heal" not in card and "hf-layerprune apply ./p2 layerprune/plan.json" in card
    shutil.copy(records / "plan.json", lacking)
    with pytest.raises(PublishError, match=r"plan-2\.json: is not how the checkpoint at its place of the lineage was made"):
        card_facts(here.parent / "first" / "p3")


def test_a_dense_model_healed_twice(done: Callable[[str], str], here: Path) -> None:
    done(f"heal mini --recipe interlace --tune-last 2 {QUICK} -o h1")
    done(f"heal h1 --recipe interlace --tune-last 3 {QUICK} -o h2")
    done("card h2")
    card = (here / "h2" / "README.md").read_text()
    assert "`mini`, no layer removed, fine-tuned for 2 steps by hf-layerprune, then for 2 steps more.\n" in card
    assert "the control" not in card and "This is the last of 2 fine-tunings" in card
    assert [shlex.split(line)[-1] for line in commands(card)] == ["./h1", "./h2", "./h2"]


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
