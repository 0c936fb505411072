"""What `--json` of every command says, without times, places, versions, the machine, prose, and numbers that come of a model's floats."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub.loopback import LoopbackHub
from tests.pins.commands import Done, Pinned, run, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = "--data mini,count=8 --set batch_size=4 --set precision=fp32 --device cpu"
PROBE = "--samples 4 --dtype float32 --device cpu"
EVALUATE = "evaluate short --against mini --samples 4 --max-new-tokens 2 --device cpu --json"
HEAL = f"heal out --recipe interlace {QUICK} -o healed --json"
COMMANDS = {  # in this order, in one folder
    "inspect": "inspect mini --json",
    "plan": "plan {statistics} --method interlace --budget 25% -o plan.json --json",
    "plan of a model": "plan mini --method random -o random.json --json",
    "apply": "apply mini plan.json --statistics {statistics} -o out --json",
    "apply, shards and no proof": "apply mini plan.json -o shards --max-shard-size 1MB --no-verify --json",
    "apply, a model for a plan": "apply mini out -o rebuilt --json",
    "convert": f"convert mini --budget 25% {PROBE} -o short --json",
    "convert, a dry run": "convert mini --layers 1,9 --protect first,last --dry-run --json",
    "plan of a pruned model": "plan out --method cka --num-layers 4 -o again.json --json",
    "inspect, pruned": "inspect out --json",
    "verify": "verify out --source mini --json",
    "verify, loaded": "verify out --deep --json",
    "evaluate": EVALUATE,
    "evaluate, finished": EVALUATE,
    "heal": HEAL,
    "heal, finished": HEAL,
    "heal by adapters": f"heal short {QUICK} -o adapted --json",
    "verify, healed": "verify healed --source out --json",
    "card": "card healed --json",
    "push": "push healed me/healed --private --json",
    "push, nothing new": "push healed me/healed --json",
    "verify, on the Hub": "verify me/healed --json",
    "recipes": "recipes --json",
    "strategies": "strategies --json",
}
TOUCH_NOTHING = ("convert, a dry run", "evaluate, finished", "heal, finished", "push, nothing new", "verify", "inspect")
HEX = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


def of_plan(plan: dict[str, Any]) -> dict[str, Any]:
    return without(plan, "score_meaning", "scores", "statistics") | {"scored": sorted(plan["scores"], key=int)}


def of_convert(said: dict[str, Any]) -> dict[str, Any]:
    images = {name: domain["images"] for name, domain in said["probe"]["domains"].items()} if said["probe"] else None
    probe = said["probe"] and {**{key: said["probe"][key] for key in ("passes", "skipped", "skipped_count")}, "images": images}
    return said | {"plan": of_plan(said["plan"]), "probe": probe, "warnings": len(said["warnings"])}


def of_evaluate(said: dict[str, Any]) -> dict[str, Any]:
    """Who was asked, what, and how many samples; not with what success."""

    def samples(row: dict[str, Any]) -> list[int]:
        return [row["unusable"], row["model"]["samples"], row["against"]["samples"]]

    scores = {
        task: {"whole": samples(rows["whole"]), "subtasks": {name: samples(row) for name, row in rows["subtasks"].items()}}
        for task, rows in said["scores"].items()
    }
    keys = ("name", "spec", "samples", "records", "seed", "revision")
    tasks = [{**{key: task[key] for key in keys}, "bad": task["unusable"]} for task in said["tasks"]]
    models = {key: said[key]["source"] for key in ("model", "against")}
    return {"output": said["output"], "reused": said["reused"], "skipped": said["skipped"], "scores": scores, "tasks": tasks, **models}


def of_heal(said: dict[str, Any]) -> dict[str, Any]:
    assert HEX.fullmatch(said["key"]) and all(isinstance(loss, float) for loss in said["loss"])
    return without(said, "key") | {"loss": len(said["loss"])}


def of_push(said: dict[str, Any]) -> dict[str, Any]:
    """Records and figures aside."""
    assert HEX.fullmatch(said["commit"]) and said["url"].endswith("/me/healed")
    names = ("uploaded", "unchanged", "deleted")
    return without(said, "commit", "url") | {name: [file for file in said[name] if not file.startswith("layerprune/")] for name in names}


def of_verify(said: dict[str, Any]) -> dict[str, Any]:
    return said | {"differences": bool(said["differences"])}


def of_recipes(said: dict[str, Any]) -> dict[str, Any]:
    return {name: without(recipe, "paper", "data") for name, recipe in said.items()}


def of_strategies(said: dict[str, Any]) -> dict[str, Any]:
    """Ours, and of each parameter what is not prose."""
    rows = [row for row in said["strategies"] if row["package"] == "hf-layerprune"]
    return {
        row["name"]: {"needs": row["needs"], "parameters": {item["name"]: item["default"] for item in row["parameters"]}} for row in rows
    }


MEANING: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "plan": lambda said: said | {"plan": of_plan(said["plan"])},
    "convert": of_convert,
    "evaluate": of_evaluate,
    "heal": of_heal,
    "push": of_push,
    "verify": of_verify,
    "recipes": of_recipes,
    "strategies": of_strategies,
}


@pytest.fixture(scope="module")
def said(one_thread: None, statistics: Path, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What each command said; those of TOUCH_NOTHING leave the folder as it was."""
    here, answers = tmp_path_factory.mktemp("here"), {}
    for name, line in COMMANDS.items():
        before = snapshot(here) if name in TOUCH_NOTHING else None
        answers[name] = run(here, *line.format(statistics=statistics).split())
        assert before in (None, snapshot(here)), name
    return answers


@pytest.mark.parametrize("name", COMMANDS)
def test_what_it_says(said: dict[str, Done], pinned: Pinned, name: str) -> None:
    done = said[name]
    assert done.code == 0, done.err
    command = COMMANDS[name].split()[0]
    pinned(name, MEANING.get(command, lambda value: value)(done.json))


def test_a_probe_and_the_same_probe_again(probed: tuple[Path, Done]) -> None:
    """The second finds the file finished, says so and touches nothing."""
    path, done = probed
    before = snapshot(path.parent)
    again = run(path.parent, "probe", "mini", *PROBE.split(), "-o", path.name, "--json")
    assert again.code == 0 and snapshot(path.parent) == before
    assert HEX.fullmatch(done.json["fingerprint"]) and again.json == done.json | {"reused": True}
    assert without(done.json, "fingerprint") == {"output": path.name, "reused": False}


def test_a_difference(tmp_path: Path, pinned: Pinned) -> None:
    """One byte of the weights is another, and one file too many: exit code 1, a difference each, nothing on stderr."""
    assert run(tmp_path, *"convert mini --layers 5 -o out".split()).code == 0
    content = bytearray((tmp_path / "out/model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "out/model.safetensors").write_bytes(content)
    shutil.copy(tmp_path / "out/config.json", tmp_path / "out/other.json")
    done = run(tmp_path, *"verify out --source mini --json".split())
    assert (done.code, done.err) == (1, "")
    pinned("verify, a difference", of_verify(done.json))
