"""Models on the Hub that are looked at, planned, proved and built again without a download of their weights."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_state import Fault
from independent import pruned as pruned_tensors
from independent import read_model
from loopback_hub import Files, LoopbackHub, Repo, only_hub, serve
from tiny_checkpoint import make_checkpoint

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.mini import model_path

Run = Any
SOURCE, PRUNED = "Qwen/Tiny-VL", "me/tiny-13L"
WEIGHTS = "model.safetensors"
CARDS = Path(__file__).parents[2] / "cards"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """mini as a model of somebody's."""
    with serve() as server, only_hub(server, tmp_path_factory.mktemp("cache")):
        put(server, SOURCE, content(model_path()))
        yield server


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


@pytest.fixture
def published(hub: LoopbackHub, statistics: Path, here: Path, run_here: Run) -> Files:
    """A model that was pruned of mini by its statistics and pushed with them; the folder is gone."""
    for line in (
        f"plan {statistics} --method mixed --budget 0.25 -o plan.json",
        f"apply mini plan.json --statistics {statistics} -o short",
    ):
        assert run_here(*line.split()).returncode == 0
    files = content(here / "short")
    put(hub, PRUNED, files)
    for path in sorted(here.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    hub.sent.clear()
    return files


@pytest.fixture
def asked(hub: LoopbackHub) -> Callable[[str], int]:
    """A function that says how many bytes were sent of a file since the test began."""
    hub.sent.clear()
    return lambda name: sum(sent for path, _, sent in hub.sent if path == name)


def test_inspect(hub: LoopbackHub, run_here: Run, asked: Callable[[str], int]) -> None:
    done = run_here("inspect", SOURCE)
    assert done.returncode == 0, done.stderr
    local = run_here("inspect", "mini").stdout.splitlines()
    first, *table, last = done.stdout.splitlines()
    assert first.startswith(f"{SOURCE} @ {hub.repos[SOURCE].refs['main'][:7]} · qwen3_vl · 16 decoder layers") and table == local[1:]
    read = sum(sent for _, _, sent in hub.sent)
    assert last == f"(read 1 header and config.json over the network, {read / 1000:.1f} kB; no weights)"
    assert asked(WEIGHTS) < 400_000 < len(hub.repos[SOURCE].commits[hub.repos[SOURCE].refs["main"]][WEIGHTS]) / 10
    assert {path for path, _, _ in hub.sent} == {"config.json", WEIGHTS}
    hub.sent.clear()
    again = run_here("inspect", SOURCE, "--json")
    assert json.loads(again.stdout)["network_bytes"] == asked(WEIGHTS) == sum(sent for _, _, sent in hub.sent) > 0
    assert "(read 1 header over the network, " in run_here("inspect", SOURCE).stdout


def test_a_folder_is_read_on_the_disk(hub: LoopbackHub, run_here: Run) -> None:
    assert "over the network" not in run_here("inspect", "mini").stdout
    assert json.loads(run_here("inspect", "mini", "--json").stdout)["network_bytes"] == 0


def test_plan_of_a_model(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    commit = hub.repos[SOURCE].refs["main"]
    done = run_here("plan", SOURCE, "--layers", "5,9", "-o", "plan.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"next    hf-layerprune apply {SOURCE} --revision {commit} plan.json -o DIR"
    made = json.loads((here / "plan.json").read_text())
    run_here("plan", "mini", "--layers", "5,9", "-o", "local.json")
    local = json.loads((here / "local.json").read_text())
    assert made["source"] == {"id": SOURCE, "commit": commit, "fingerprint": local["source"]["fingerprint"]}
    assert {**made, "source": None} == {**local, "source": None}
    assert 0 < asked(WEIGHTS) < 400_000
    assert run_here("plan", SOURCE, "--method", "random", "-o", "random.json").returncode == 0
    refused = run_here("plan", SOURCE, "--method", "mixed", "-o", "mixed.json")
    assert refused.returncode != 0 and "statistics" in refused.stderr


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
        r"error: .*: statistics of mini with fingerprint \w+, but the model beside them was cut from 0{12}\. .*\n", done.stderr
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
        None: f"'{WEIGHTS}' is missing, though its manifest has it",
    }.get(name, f"'{name}' is not in its manifest")
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
    assert re.match(rf"error: {model}.*: '{index}' is .* bytes with sha256 \w{{12}}, expected .* as its manifest says", done.stderr)


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
    assert "me/healed was healed after pruning: its pruned stage is built again; healing.json says the rest" in done.stderr
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


def test_stream(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    size = len(hub.repos[SOURCE].commits[hub.repos[SOURCE].refs["main"]][WEIGHTS])
    done = run_here("convert", SOURCE, "--layers", "5,9", "--stream", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "verified: " in done.stdout and done.stdout.splitlines()[-2] == "next    hf-layerprune evaluate out"
    keep = [layer for layer in range(16) if layer not in (5, 9)]
    assert read_model(here / "out") == pruned_tensors(read_model(model_path()), keep)
    assert size <= asked(WEIGHTS) < size + 400_000
    run_here("plan", SOURCE, "--layers", "5,9", "-o", "plan.json")
    assert run_here("apply", SOURCE, "plan.json", "--stream", "-o", "applied").returncode == 0
    assert content(here / "applied") == content(here / "out")
    assert run_here("apply", SOURCE, "out", "--stream", "-o", "again").returncode == 0
    assert sorted(path.name for path in here.iterdir()) == ["again", "applied", "out", "plan.json"]


def test_a_dry_run_reads_no_weights(hub: LoopbackHub, here: Path, run_here: Run, asked: Callable[[str], int]) -> None:
    for option in ((), ("--stream",)):
        done = run_here("convert", SOURCE, "--layers", "5,9", "--dry-run", *option)
        assert done.returncode == 0 and "removed 2 of 16 layers: 5, 9" in done.stdout and done.stdout.endswith("nothing was written\n")
    assert 0 < asked(WEIGHTS) < 800_000 and not list(here.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_stream_goes_on(
    hub: LoopbackHub, here: Path, tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    """Interrupted when it asks for the whole of the second shard."""
    files = content(make_checkpoint(tmp_path / "source", tied=False, shards=3))
    put(hub, "me/three", files)
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "hf_layerprune", "convert", "me/three", "--layers", "3", "--stream", "-o", "out"]
    second, asked = "model-00002-of-00003.safetensors", Counter[str]()
    process = subprocess.Popen(command, cwd=here, env=environment | network, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def interrupt(path: str, ranges: str) -> None:
        asked[path] += ranges == f"bytes=0-{len(files[path]) - 1}"
        if path == second and asked[path] == 2:  # the first time for its header, for it is small
            process.send_signal(number)
            process.wait()

    hub.repos["me/three"].on_file = interrupt
    _, said = process.communicate(timeout=300)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert said.endswith("interrupted: finished shards are kept; run the same command again and it goes on from there.\n")
    (staging,) = here.glob(".layerprune-*.staging")
    assert [path.name for path in staging.glob("*.safetensors")] == ["model-00001-of-00003.safetensors"] and not (here / "out").exists()
    asked.clear()
    hub.repos["me/three"].on_file = lambda path, ranges: asked.update([path] if ranges == f"bytes=0-{len(files[path]) - 1}" else [])
    done = subprocess.run(command, cwd=here, env=environment | network, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [asked[f"model-0000{shard}-of-00003.safetensors"] for shard in (1, 2, 3)] == [1, 2, 2]  # once for each header
    assert read_model(here / "out") == pruned_tensors(read_model(tmp_path / "source"), [0, 1, 2, 4, 5])
    assert [path.name for path in here.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert", SOURCE, "--stream"), "--stream keeps no weights, and method 'mixed' must run the model"),
        (("convert", SOURCE, "--stream", "--layers", "5", "--max-shard-size", "1MB"), "leave out --max-shard-size"),
        (("convert", "mini", "--stream", "--layers", "5"), "--stream is for a Hub id, and mini is on this disk"),
        (("convert", SOURCE, "--stream", "--layers", "99"), "99"),
    ],
)
def test_stream_refused(hub: LoopbackHub, here: Path, run_here: Run, arguments: tuple[str, ...], message: str) -> None:
    hub.sent.clear()
    done = run_here(*arguments, "-o", "out")
    assert done.returncode == 2 and message in done.stderr and not list(here.iterdir())
