"""The whole journey against a loopback Hub: pruned by its id, healed, evaluated, published, used without us, and built again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

import hf_layerprune
from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.mini import model_path
from hf_layerprune.publishing.template import score
from tests.card_commands import command
from tests.hub.loopback import LoopbackHub, serve
from tests.hub.models import content
from tests.hub.pushing import TOKEN
from tests.hub.state import Account, Repo

SOURCE, SHORT, HEALED = "Qwen/Tiny-VL", "me/tiny-14L", "me/tiny-14L-healed"
WEIGHTS = "model.safetensors"
Command = Callable[..., str]

# Run where importing this package fails: what a person does who never heard of it.
STRANGER = """
import json, sys
sys.modules["hf_layerprune"] = None
import torch
from transformers import AutoModelForImageTextToText
model, info = AutoModelForImageTextToText.from_pretrained(sys.argv[1], output_loading_info=True)
print(json.dumps({"layers": len(model.model.language_model.layers), "bad": [*map(len, (info["missing_keys"], info["unexpected_keys"]))],
                  "logits": list(model(input_ids=torch.arange(5)[None]).logits.shape[:2])}))
"""


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with serve() as server:
        server.accounts = {TOKEN: Account("me")}
        server.repos[SOURCE] = Repo()
        server.repos[SOURCE].push(content(model_path()))
        yield server


@pytest.fixture
def python(hub: LoopbackHub, tmp_path: Path) -> Command:
    """A function that runs Python in a process of its own and gives what it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    network = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    environment = kept | network | {"PYTHONPATH": str(Path(hf_layerprune.__file__).parents[1]), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}

    def call(*arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    return call


def compared(report: EvalReport, card: str, commit: str) -> None:
    """The card has the source's column beside the model's, as the report has both, and model-index the model's accuracies."""
    assert report.against and (report.against.id, report.against.commit) == (SOURCE, commit)
    assert "| accuracy in % (samples) | source | healed | difference | verdict |\n" in card
    for row in report.rows:
        assert row.other
        accuracies = " | ".join(score(tally) for tally in (row.other, row.model))
        assert f"({row.model.samples}) | {accuracies} | {row.difference:+.2f},\xa0{row.relative:+.1f}\xa0% | " in card
    _, results = model_index_to_eval_results(ModelCard(card).data.to_dict()["model-index"])
    found = {result.dataset_name: result.metric_value for result in results}
    assert found == {task: round(report.row(task).model.accuracy, 2) for task in ("mini-math", "mini-general")}
    evaluate = command(card, "evaluate")
    assert evaluate.endswith(f" --against {SOURCE}@{commit} --tasks mini-math --tasks mini-general --samples 10 --seed 0")


def test_journey(hub: LoopbackHub, python: Command, tmp_path: Path) -> None:
    def run(line: str) -> str:
        return python("-m", "hf_layerprune", *line.split())

    commit = hub.repos[SOURCE].refs["main"]
    run(f"convert {SOURCE} --layers 4,9 -o short")
    run(f"push short {SHORT} --private")
    run("heal short --recipe interlace --data mini,count=16 --set batch_size=8 -o healed")
    run(f"evaluate healed --against {SOURCE}@{commit} --tasks mini-math --tasks mini-general --samples 10")
    run("card healed")
    run(f"push healed {HEALED}")

    there = hub.repos[HEALED].files()
    answers = ("layerprune/answers.jsonl", "layerprune/answers-against.jsonl")
    theirs_alone = {**dict.fromkeys(answers, b""), "README.md": b""}  # the pushed card names the repository in its quick start
    assert {**there, **content(tmp_path / "healed"), **theirs_alone} == {**there, **theirs_alone}
    assert {f"layerprune/{name}.json" for name in ("plan", "manifest", "source", "healing", "eval", "card")} <= there.keys()
    assert not there.keys() & {*answers}
    card = there["README.md"].decode()
    assert f'model_id = "{HEALED}"' in card and f"vllm serve {HEALED}" in card
    assert f"base_model: {SOURCE}\n" in card and "license: apache-2.0\n" in card and "model-index:" in card
    for figure in ("layer-map", "loss"):
        for picture in (f"layerprune/{figure}.png", f"layerprune/{figure}-dark.png"):
            assert there[picture].startswith(b"\x89PNG") and picture in card
    compared(EvalReport.load(tmp_path / "healed" / "layerprune" / "eval.json"), card, commit)

    assert "differences" not in run(f"verify {HEALED}")
    found = json.loads(python("-c", STRANGER, HEALED))
    assert found == {"layers": 14, "bad": [0, 0], "logits": [1, 5]}

    published = hub.repos[SHORT].files()
    printed = [command(published["README.md"].decode(), name) for name in ("plan", "apply", "verify")]
    assert printed == [
        f"hf-layerprune plan {SOURCE} --revision {commit} --layers 4,9 -o plan.json",
        f"hf-layerprune apply {SOURCE} --revision {commit} {SHORT} -o ./again",
        f"hf-layerprune verify ./again --source {SOURCE} --revision {commit}",
    ]
    said = [run(line.removeprefix("hf-layerprune ")) for line in printed]
    assert f"proved  its weight files have the sha256 of those of {SHORT} @ " in said[1]
    assert (tmp_path / "plan.json").read_bytes() == published["layerprune/plan.json"]
    assert content(tmp_path / "again").items() <= published.items()
    shutil.rmtree(tmp_path / "short")  # the other card's commands make it again
    assert command(card, "apply") == f"hf-layerprune apply {SOURCE} --revision {commit} {HEALED} -o ./short"
    assert f"proved  it has the fingerprint of what was healed into {HEALED} @ " in run(
        command(card, "apply").removeprefix("hf-layerprune ")
    )
    assert (tmp_path / "short" / WEIGHTS).read_bytes() == published[WEIGHTS] != there[WEIGHTS]
    assert command(card, "heal").startswith("hf-layerprune heal ./short --recipe interlace --data mini,count=16 ")
    assert "nothing was sent" in run(f"push healed {HEALED}")
