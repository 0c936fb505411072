"""Pruned models on the Hub: planned again from their statistics, built again and proved, without a download of their weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.index import Checkpoint
from tests.hub.loopback import LoopbackHub
from tests.hub.models import CARDS, PRUNED, SOURCE, WEIGHTS, content, put, with_weights, write
from tests.hub.state import Fault, Files

Run = Any


def test_plan_from_published_statistics(hub: LoopbackHub, here: Path, run_here: Run, statistics: Path, published: Files) -> None:
    done = run_here("plan", PRUNED, "--method", "interlace", "--budget", "25%", "-o", "plan.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("statistics of mini · qwen3_vl · 16 decoder layers")
    assert "wrote   plan.json, a plan for mini" in done.stdout and "hf-layerprune apply mini plan.json" in done.stdout
    run_here("plan", statistics, "--method", "interlace", "--budget", "25%", "-o", "local.json")
    assert (here / "plan.json").read_bytes() == (here / "local.json").read_bytes()
    whole = [path for path, _, sent in hub.sent if sent == len(published.get(path, b""))]
    assert sorted(whole) == ["config.json", "layerprune/statistics.safetensors"]


def test_published_statistics_of_another_model(hub: LoopbackHub, here: Path, run_here: Run, published: Files) -> None:
    config = json.loads(published["config.json"])
    config["layer_pruning"]["source"]["fingerprint"] = "0" * 64
    put(hub, "me/mixed-up", {**published, "config.json": json.dumps(config).encode()})
    done = run_here("plan", "me/mixed-up", "-o", "plan.json")
    assert done.returncode == 1 and not list(here.iterdir())
    assert re.fullmatch(
        r"error: .*: statistics of mini with fingerprint \w+, but the model beside them was pruned from 0{12}\. .*\n", done.stderr
    )


def test_a_published_model_is_built_again_and_proved(here: Path, run_here: Run, published: Files) -> None:
    done = run_here("apply", "mini", PRUNED, "-o", "again")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^proved  its weight files have the sha256 of those of {PRUNED} @ \w{{7}}$", done.stdout, re.MULTILINE)
    assert content(here / "again") == published  # all of it, for the source goes by the same name
    assert LayerStatistics.load(here / "again/layerprune/statistics.safetensors").model.source.id == "mini"
    third = run_here("apply", "mini", "again", "-o", "third", "--json")
    assert json.loads(third.stdout)["rebuilt"] == "again" and content(here / "third") == published


@pytest.mark.parametrize("limit", ["2MB", "900kB"])
def test_with_the_shards_that_were_published(hub: LoopbackHub, here: Path, run_here: Run, limit: str) -> None:
    run_here("plan", "mini", "--layers", "5", "-o", "plan.json")
    assert run_here("apply", "mini", "plan.json", "-o", "short", "--max-shard-size", limit).returncode == 0
    put(hub, "me/small-shards", content(here / "short"))
    assert run_here("apply", "mini", "me/small-shards", "-o", "again").returncode == 0
    assert content(here / "again") == content(here / "short")
    refused = run_here("apply", "mini", "me/small-shards", "-o", "third", "--max-shard-size", "1MB")
    assert refused.returncode == 2 and "--max-shard-size: the shards are those of me/small-shards @ " in refused.stderr


def test_other_weights_than_published_are_refused(hub: LoopbackHub, here: Path, run_here: Run, published: Files) -> None:
    put(hub, "me/forged", with_weights(published, published[WEIGHTS][:-1] + b"!"))
    forged = hashlib.sha256(published[WEIGHTS][:-1] + b"!").hexdigest()[:12]
    done = run_here("apply", "mini", "me/forged", "-o", "again")
    real = hashlib.sha256(published[WEIGHTS]).hexdigest()[:12]
    assert done.returncode == 1 and not list(here.iterdir())
    assert done.stderr.startswith(f"error: {WEIGHTS}: rebuilt with sha256 {real}, expected {forged} as published. Nothing was written")


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "adapter_config.json", None])
@pytest.mark.parametrize("local", [False, True], ids=["on the Hub", "in a folder"])
def test_an_honest_manifest_beside_other_weights(
    hub: LoopbackHub, here: Path, tmp_path: Path, run_here: Run, published: Files, name: str | None, local: bool
) -> None:
    """What is there is compared, and not what its publisher says of it. name: of the file that is not the manifest's, None: one lacks."""
    changed = published[WEIGHTS][:-1] + bytes([published[WEIGHTS][-1] ^ 1])
    files = {**published, name: changed} if name else {file: text for file, text in published.items() if file != WEIGHTS}
    model = "me/other-weights"
    put(hub, model, files)
    if local:
        model = str(tmp_path / "model")
        write(Path(model), files)
    done = run_here("apply", "mini", model, "-o", "again")
    said = {
        WEIGHTS: f"'{WEIGHTS}' is {len(changed):,} bytes with sha256 {hashlib.sha256(changed).hexdigest()[:12]}, expected ",
        None: f"'{WEIGHTS}' is missing, so it is not what its plan makes",
    }.get(name, f"'{name}' is not in the manifest")
    foreign = local and name == "adapter_config.json"  # which is no model of ours to begin with
    assert done.returncode == 1 and not list(here.iterdir()) and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {model}") and ("adapter" if foreign else said) in done.stderr and "proved" not in done.stdout


@pytest.mark.parametrize("local", [False, True], ids=["on the Hub", "in a folder"])
def test_an_honest_manifest_beside_another_index(hub: LoopbackHub, here: Path, run_here: Run, tmp_path: Path, local: bool) -> None:
    """Which lies in git itself, so that the Hub lists no sha256 of it."""
    index = "model.safetensors.index.json"
    run_here("plan", "mini", "--layers", "5", "-o", "plan.json")
    assert run_here("apply", "mini", "plan.json", "-o", "short", "--max-shard-size", "2MB").returncode == 0
    files = content(here / "short")
    model = "me/other-index"
    put(hub, model, {**files, index: files[index].replace(b'"weight_map"', b'"weight_mop"')})
    if local:
        model = str(tmp_path / "model")
        write(Path(model), {**files, index: files[index].replace(b'"weight_map"', b'"weight_mop"')})
    done = run_here("apply", "mini", model, "-o", "again")
    assert done.returncode == 1 and not (here / "again").exists()
    assert re.match(rf"error: {model}.*: '{index}' is .* bytes with sha256 \w{{12}}, expected .*, so it is not what", done.stderr)


@pytest.mark.parametrize("how", ["--local-files-only", "HF_HUB_OFFLINE", "no network"])
def test_without_the_hub_nothing_is_said_to_be_proved(
    hub: LoopbackHub, here: Path, run_here: Run, published: Files, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    commit = put(hub, "me/cached", published)
    name = f"me/cached@{commit}"
    assert run_here("apply", "mini", name, "-o", "first").returncode == 0
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif how == "no network":
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    done = run_here("apply", "mini", name, "-o", "again", "--json", *(["--local-files-only"] if how.startswith("--") else []))
    assert done.returncode == 0, done.stderr
    assert (
        "not proved: its weight files have the sha256 of those of me/cached @ " in done.stderr and "as its manifest states" in done.stderr
    )
    assert json.loads(done.stdout)["rebuilt"] is None and content(here / "again") == published


def test_a_hub_that_refuses_its_list_is_no_lack_of_network(hub: LoopbackHub, here: Path, run_here: Run, published: Files) -> None:
    put(hub, "me/refused", published)
    hub.faults = [Fault("GET .*/me/refused/tree/", 403, times=99, skip=1)]  # huggingface_hub lists it first
    done = run_here("apply", "mini", "me/refused", "-o", "again")
    hub.faults = []
    assert done.returncode == 1 and done.stderr.startswith("error: me/refused: the Hub refuses access") and not list(here.iterdir())


def test_another_writer_is_named(hub: LoopbackHub, run_here: Run, published: Files) -> None:
    put(hub, "me/older", with_weights(published, published[WEIGHTS] + b"\0", writer="hf-layerprune rewrite 0"))
    done = run_here("apply", "mini", "me/older", "-o", "again")
    assert done.returncode == 1 and "that was written by 'hf-layerprune rewrite 0', this by 'hf-layerprune rewrite" in done.stderr


@pytest.mark.parametrize("same", [True, False], ids=["the stage that was healed", "another"])
def test_of_a_healed_model_the_pruned_stage_is_built(hub: LoopbackHub, here: Path, run_here: Run, published: Files, same: bool) -> None:
    assert run_here("apply", "mini", PRUNED, "-o", "pruned").returncode == 0
    fingerprint = Checkpoint.open(here / "pruned", "pruned").source.fingerprint if same else "0" * 64
    record = json.loads((CARDS / "mini-mixed-13L-interlace/layerprune/healing.json").read_text())
    record["checkpoint"] |= {"fingerprint": fingerprint}
    healed = {**published, WEIGHTS: b"\0" + published[WEIGHTS][1:], "layerprune/healing.json": json.dumps(record).encode()}
    commit = put(hub, "me/healed", healed)
    done = run_here("apply", "mini", "me/healed", "-o", "again", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["rebuilt"] == (f"me/healed @ {commit[:7]}" if same else None)
    assert "me/healed was healed after pruning: its pruned stage is rebuilt; healing.json says the rest" in done.stderr
    assert ("not proved: what was healed has the fingerprint 000000000000, this " in done.stderr) != same
    assert (here / "again" / WEIGHTS).read_bytes() == published[WEIGHTS]


def test_of_a_published_model_one_revision(hub: LoopbackHub, here: Path, run_here: Run, published: Files) -> None:
    first = put(hub, "me/changing", published)
    hub.repos["me/changing"].push({**published, "layerprune/plan.json": b"{}"})
    assert run_here("apply", "mini", "me/changing", "-o", "latest").returncode == 1
    done = run_here("apply", "mini", f"me/changing@{first}", "-o", "first")
    assert done.returncode == 0 and f"those of me/changing @ {first[:7]}" in done.stdout


def test_what_is_no_plan(hub: LoopbackHub, here: Path, run_here: Run, published: Files) -> None:
    for plan, message in (
        (SOURCE, f"{SOURCE}: has no layerprune/plan.json, so hf-layerprune did not prune it"),
        ("me/absent", "me/absent is missing, private or gated"),
        ("folder/plan.json", "folder/plan.json: cannot read the plan: No such file or directory"),
        ("plan", "plan: cannot read the plan: No such file or directory"),
    ):
        done = run_here("apply", "mini", plan, "-o", "out")
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith(f"error: {message}")
    other = run_here("apply", PRUNED, PRUNED, "-o", "out")
    assert other.returncode == 1 and "the plan is for mini with fingerprint" in other.stderr
    assert not list(here.iterdir())


def test_verify(hub: LoopbackHub, run_here: Run, published: Files, asked: Callable[[str], int]) -> None:
    done = run_here("verify", PRUNED)
    files = len(json.loads(published["layerprune/manifest.json"])["files"])
    assert (done.returncode, done.stdout) == (0, f"verified {PRUNED}: {files} files, {len(read_tensors(published))} tensors\n")
    assert 0 < asked(WEIGHTS) < 400_000
    changed = published[WEIGHTS][:-1] + bytes([published[WEIGHTS][-1] ^ 1])
    put(hub, "me/changed", {**published, WEIGHTS: changed, "extra.txt": b""})
    wrong = run_here("verify", "me/changed")
    first, second, last = wrong.stdout.splitlines()
    assert wrong.returncode == 1 and last == "2 differences" and first == "'extra.txt' is not in the manifest"
    assert second.startswith(f"'{WEIGHTS}' is {len(changed):,} bytes with sha256 {hashlib.sha256(changed).hexdigest()[:12]}, expected ")
    assert json.loads(run_here("verify", "me/changed", "--json").stdout)["ok"] is False


def read_tensors(files: Files) -> dict[str, str]:
    return json.loads(files["layerprune/manifest.json"])["tensors"]


@pytest.mark.parametrize("option", [("--deep",), ("--source", "mini"), ("--local-files-only",)])
def test_what_verify_cannot_do_on_the_hub(run_here: Run, published: Files, option: tuple[str, ...]) -> None:
    done = run_here("verify", PRUNED, *option)
    assert done.returncode == 2 and option[0] in done.stderr and PRUNED in done.stderr
