"""A healing from beginning to end on mini: what is trained, what is written, what a killed run or a failing disk leaves."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from hf_layerprune.artifacts.healing_record import Engine, HealingRecord
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.processor_files import with_processor
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import ArtifactError, CheckpointError, HealingError, LayerPruneError, UsageError
from hf_layerprune.healing.dataset import prepare_data
from hf_layerprune.healing.heal import heal
from hf_layerprune.healing.options import HealOptions
from hf_layerprune.healing.recipes import RECIPES
from hf_layerprune.healing.request import DataRequest, resolve
from hf_layerprune.healing.training import saved_states
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model
from tests.checkpoint.independent import read_model
from tests.tiny_checkpoint import make_checkpoint

QUICK = {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
SHORT = {"changed": {"batch_size": 4}, "samples": 16, "save_steps": 1}  # four steps, a state after each
TUNED = tuple(f"model.language_model.layers.{layer}." for layer in (5, 7, 10))  # 6, 9 and 13 of mini without 5, 8 and 12


def run(
    source: Path, output: Path, recipe: str, samples: int = 24, *, changed: dict[str, Any] = {}, told: dict[str, Any] = {}, **options: Any
) -> tuple[HealingRecord, bool]:
    asked = HealOptions(recipe, settings=QUICK | changed, data=f"mini,count={samples}", device="cpu", **options)
    return heal(resolve(Checkpoint.open(source, source.name), output, asked, None), **told)


def record_of(output: Path) -> HealingRecord:
    return HealingRecord.load(output / "layerprune" / "healing.json")


@pytest.fixture(scope="module")
def healed(pruned_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("healed") / "layers"
    run(pruned_mini, output, "interlace")
    return output


@pytest.fixture(scope="module")
def merged(pruned_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("healed") / "lora"
    run(pruned_mini, output, "domain-aware")
    return output


def changed_tensors(before: Path, after: Path) -> set[str]:
    old, new = read_model(before), read_model(after)
    assert old.keys() == new.keys() and all(old[name][:2] == new[name][:2] for name in old)
    return {name for name in old if old[name] != new[name]}


def test_exactly_what_the_recipe_trains_changes(pruned_mini: Path, healed: Path, merged: Path, tmp_path: Path) -> None:
    """INTERLACE: the layers after the dropped ones, or the last of a dense model; domain-aware: every projection of the decoder."""
    assert changed_tensors(pruned_mini, healed) == {name for name in read_model(pruned_mini) if name.startswith(TUNED)}
    projections = "self_attn.q self_attn.k self_attn.v self_attn.o mlp.gate mlp.up mlp.down".split()
    expected = {f"model.language_model.layers.{i}.{name}_proj.weight" for i in range(13) for name in projections}
    assert changed_tensors(pruned_mini, merged) == expected
    record, _ = run(model_path(), tmp_path / "dense", "interlace", tune_last="25%", samples=8)
    assert record.trained.layers == (12, 13, 14, 15) and verify(tmp_path / "dense").ok
    names = changed_tensors(model_path(), tmp_path / "dense")  # after one step norms are the same in bf16
    assert {int(name.removeprefix("model.language_model.layers.").partition(".")[0]) for name in names} == {12, 13, 14, 15}


@pytest.mark.parametrize("name", ["healed", "merged"])
def test_the_result_is_a_checkpoint_like_any_other(pruned_mini: Path, name: str, request: pytest.FixtureRequest) -> None:
    output: Path = request.getfixturevalue(name)
    model, info = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.text_config.num_hidden_layers == 13 and verify(output).ok
    for path in ("config.json", "layerprune/plan.json"):
        assert (output / path).read_bytes() == (pruned_mini / path).read_bytes()
    assert (output / "layerprune" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]  # no work folder, no lock


def test_the_record(pruned_mini: Path, healed: Path) -> None:
    record = record_of(healed)
    assert record.steps == 24 // 8 and record.recipe.batch_size == 8 and record.recipe.weight_decay == 0.0
    assert set(record.overridden) == {"batch_size", "micro_batch_size", "learning_rate", "precision"}
    assert record.engine == Engine(1, "cpu", None) and not record.resumed
    assert record.checkpoint.fingerprint == Checkpoint.open(pruned_mini, "x").source.fingerprint
    sizes = [len(tensor[2]) // 2 for name, tensor in read_model(pruned_mini).items() if name.startswith(TUNED)]
    assert (record.trained.parameters, record.trained.tensors) == (sum(sizes), len(sizes))
    assert record.data.sources[0].used == 24 and record.versions["torch"].startswith(torch.__version__.partition("+")[0])


def test_the_first_loss_is_the_pruned_models(pruned_mini: Path, healed: Path) -> None:
    """Worked out by transformers' own loss, a sample at a time."""
    data = prepare_data(DataRequest((DataSpec("mini", count=24),), RECIPES["interlace"].max_length), load_processor(pruned_mini))
    model = load_model(pruned_mini, dtype=torch.float32)
    total, answers = 0.0, 0
    for index in range(8):
        sample = data[index]
        batch = {name: value if name in ("pixel_values", "image_grid_thw") else value[None] for name, value in sample.items()}
        count = int((batch["labels"][:, 1:] != -100).sum())
        with torch.inference_mode():
            total += float(model(**batch).loss) * count
        answers += count
    assert record_of(healed).curve["loss"][0] == pytest.approx(total / answers, rel=1e-5)


def test_accumulating_changes_nothing(pruned_mini: Path, healed: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    changed = {"micro_batch_size": 8, "gradient_checkpointing": "none"}
    record, _ = run(pruned_mini, tmp_path / "out", "interlace", changed=changed, report_to="tensorboard")
    assert record.curve["loss"] == pytest.approx(record_of(healed).curve["loss"], rel=1e-4)
    assert list((tmp_path / "runs" / "out").rglob("events.out.tfevents.*"))


def test_an_adapter_of_its_own(pruned_mini: Path, merged: Path, tmp_path: Path) -> None:
    run(pruned_mini, tmp_path / "adapter", "domain-aware", keep_adapter=True)
    base = load_model(pruned_mini, dtype=torch.float32)
    tokens = torch.arange(40)[None]
    with torch.inference_mode():
        before = base(input_ids=tokens).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=tokens).logits
        whole = load_model(merged, dtype=torch.float32)(input_ids=tokens).logits
    change = (adapted - before).abs().max()
    assert change > 0.1 and (adapted - whole).abs().max() < 0.1 * change  # the merged weights are rounded to bf16
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 32
    assert verify(tmp_path / "adapter").ok
    with pytest.raises(ArtifactError, match=r"is an adapter, .* without --source"):
        verify(tmp_path / "adapter", Checkpoint.open(pruned_mini, "mini-13L"))
    os.truncate(tmp_path / "adapter" / "adapter_model.safetensors", 1000)
    (line,) = verify(tmp_path / "adapter").differences
    assert line.startswith("'adapter_model.safetensors' is 1,000 bytes")


@pytest.mark.parametrize(
    "output, options, message",
    [
        ("out", {"tune_last": "99"}, "from 1 to 13"),
        ("out", {"keep_adapter": True}, "makes no adapter"),
        ("out", {"recipe": "domain-aware", "tune_last": "3"}, "leave --tune-last out"),
        ("out", {"save_steps": 0}, "--save-steps 0"),
        *[("out", {"seed": seed}, "--seed .*: expected a number from 0 to 4294967295") for seed in (-1, 1 << 32, 10**20)],
        ("runs", {"report_to": "tensorboard"}, "--report-to tensorboard writes to .*runs/runs, within the output"),
        ("out", {"max_bad": "2"}, "--max-bad '2': expected a share"),
        ("out", {"data": "mini,count=0"}, "count=0: expected a whole number"),
        ("out", {"exclude": ("a.jsonl",)}, "--exclude names problems that --render-math leaves out"),
    ],
)
def test_invalid_options(pruned_mini: Path, tmp_path: Path, output: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked = HealOptions(**{"recipe": "interlace", **options})
        resolve(Checkpoint.open(pruned_mini, "mini-13L"), tmp_path / output, asked, None)
    assert not list(tmp_path.iterdir())


def test_another_model_than_mini_needs_data(tmp_path: Path) -> None:
    checkpoint = with_processor(Checkpoint.open(make_checkpoint(tmp_path / "tiny"), "tiny"), model_path(), "mini")
    with pytest.raises(UsageError, match=r"--data is missing\. Recipe 'domain-aware' was published with .* --data samples\.jsonl,count="):
        resolve(checkpoint, tmp_path / "out", HealOptions(), None)
    data = str(tmp_path / "a.jsonl")
    Path(data).touch()
    assert resolve(checkpoint, tmp_path / "out", HealOptions(data=data), None).data.sources == (DataSpec(data),)


def test_trainings_that_cannot_go_on(pruned_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a step is taken before its update, so the last update is seen in no loss, but in the weights."""
    with pytest.raises(UsageError, match="5 samples are fewer than one batch of 8"):
        run(pruned_mini, tmp_path / "out", "interlace", samples=5)
    with monkeypatch.context() as patched, pytest.raises(HealingError, match="--report-to wandb is not installed here: pip install wandb"):
        patched.setattr("accelerate.tracking.get_available_trackers", list)
        run(pruned_mini, tmp_path / "out", "interlace", report_to="wandb")
    assert not list(tmp_path.iterdir())
    wild = {"learning_rate": 9.9, "weight_decay": 9.9, "max_grad_norm": 0, "adam_beta2": 0, "adam_epsilon": 0}
    with pytest.raises(HealingError, match=r"training left non-finite values in it\. Lower the learning rate"):
        run(pruned_mini, tmp_path / "out", "domain-aware", changed=wild, samples=8)
    broken = shutil.copytree(pruned_mini, tmp_path / "broken")
    span = Checkpoint.open(broken, "broken").tensors["model.language_model.layers.5.mlp.up_proj.weight"]
    with span.file.open("r+b") as file:
        file.seek(span.begin)
        file.write(b"\xc0\x7f")  # one NaN in bf16
    with pytest.raises(HealingError, match=r"step 1: the loss is nan\. Lower the learning rate"):
        run(broken, tmp_path / "out", "interlace")
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_written_are_refused_before_training(pruned_mini: Path, tmp_path: Path) -> None:
    double = shutil.copytree(pruned_mini, tmp_path / "double")
    tensors = load_file(double / "model.safetensors")
    doubled = {name: tensor.double() if name.endswith("mlp.up_proj.weight") else tensor for name, tensor in tensors.items()}
    save_file(doubled, double / "model.safetensors", {"format": "pt"})
    steps: list[int] = []
    with pytest.raises(HealingError, match=r"'model\.language_model\.layers\.5\.mlp\.up_proj\.weight' is to be trained, but is F64"):
        run(double, tmp_path / "out", "interlace", told={"progress": lambda step, done, total: steps.append(done)})
    assert steps == [] and not (tmp_path / "out").exists()


def test_killed_and_run_again_gives_the_same_bytes(pruned_mini: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hf_layerprune", "heal", str(pruned_mini), "--recipe", "interlace", "--save-steps", "2"]
    command += ["--data", "mini,count=64", "--device", "cpu", *(f"--set={key}={value}" for key, value in QUICK.items())]
    place: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    subprocess.run([*command, "-q", "-o", "whole"], check=True, **place)
    child = subprocess.Popen([*command, "-q", "-o", "killed"], **place)
    while not list(tmp_path.glob(".layerprune-*.healing/step-00000002")):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed").exists()
    again = subprocess.run([*command, "-o", "killed"], capture_output=True, text=True, **place)
    assert again.returncode == 0 and re.search(r"going on with an interrupted healing: \d of 8 steps are done", again.stderr)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    one, two = record_of(tmp_path / "whole"), record_of(tmp_path / "killed")
    assert one.curve["loss"] == two.curve["loss"] and not one.resumed and two.resumed
    assert not list(tmp_path.glob(".layerprune*"))


@pytest.mark.parametrize("call", ["rename", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_mid_run(pruned_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    (tmp_path / "whole").mkdir()
    run(pruned_mini, tmp_path / "whole" / "out", "interlace", **SHORT)
    output, work = tmp_path / "out", hidden_beside(tmp_path / "out", "healing")
    real: Callable[..., Any] = getattr(os, call)

    def failing(*arguments: Any) -> Any:
        if saved_states(work):  # the first state is kept, the second one fails
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(LayerPruneError, match=rf"{os.strerror(number)}.*(again|disk|space)"):
            run(pruned_mini, output, "interlace", **SHORT)
    assert not output.exists() and [state.name for state in saved_states(work)] == ["step-00000001"]
    lines: list[str] = []
    record, _ = run(pruned_mini, output, "interlace", **SHORT, told={"say": lines.append})
    assert record.resumed and lines == ["going on with an interrupted healing: 1 of 4 steps are done"]
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "whole" / "out" / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_other_settings_begin_anew(pruned_mini: Path, tmp_path: Path) -> None:
    def interrupt(step: object, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pruned_mini, tmp_path / "out", "interlace", **SHORT, told={"progress": interrupt})
    assert saved_states(hidden_beside(tmp_path / "out", "healing"))
    lines: list[str] = []
    record, _ = run(pruned_mini, tmp_path / "out", "interlace", **SHORT, seed=1, told={"say": lines.append})
    assert lines == ["an interrupted healing with other data or settings is discarded"] and not record.resumed


def test_a_healing_that_died_while_writing_does_not_train_again(pruned_mini: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(CheckpointError, match="is a file"):
        run(pruned_mini, output, "interlace", **SHORT, told={"progress": lambda step, done, total: output.touch()})
    output.unlink()
    steps: list[int] = []
    record, _ = run(pruned_mini, output, "interlace", **SHORT, told={"progress": lambda step, done, total: steps.append(done)})
    assert steps == [] and record.steps == 4 and (output / "config.json").is_file()


def test_a_finished_healing_is_recognised(pruned_mini: Path, healed: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in healed.rglob("*")}
    work = hidden_beside(healed, "healing")
    work.mkdir()  # of a run that died after its output stood
    (work / "trained.safetensors").touch()
    record, reused = run(pruned_mini, healed, "interlace")
    assert reused and record.steps == 3 and not work.exists()
    assert {path: path.stat().st_mtime_ns for path in healed.rglob("*")} == before
    with pytest.raises(CheckpointError, match=r"exists\. .*--overwrite"):
        run(pruned_mini, healed, "interlace", seed=1)
    broken = shutil.copytree(healed, tmp_path / "broken")
    os.truncate(broken / "model.safetensors", 1000)
    with pytest.raises(CheckpointError, match=r"exists\. .*--overwrite"):
        run(pruned_mini, broken, "interlace")
    record, reused = run(pruned_mini, broken, "interlace", overwrite=True)
    assert not reused and (broken / "model.safetensors").read_bytes() == (healed / "model.safetensors").read_bytes()
    (tmp_path / "link").symlink_to(healed)
    with pytest.raises(CheckpointError, match="is a link"):
        run(pruned_mini, tmp_path / "link", "interlace")


def test_proved_against_what_was_healed_and_what_that_was_pruned_from(pruned_mini: Path, healed: Path, tmp_path: Path) -> None:
    trained = sum(name.startswith(TUNED) for name in read_model(pruned_mini))
    copy = shutil.copytree(healed, tmp_path / "copy")
    span = Checkpoint.open(copy, "copy").tensors["model.language_model.layers.4.mlp.up_proj.weight"]
    content = bytearray(span.file.read_bytes())
    content[span.begin] ^= 1
    span.file.write_bytes(content)
    for source in (pruned_mini, model_path()):
        result = verify(healed, Checkpoint.open(source, "source"))
        assert result.ok and result.changed == trained and result.tensors == len(read_model(healed))
        found = verify(copy, Checkpoint.open(source, "source")).differences
        assert any("'model.language_model.layers.4.mlp.up_proj.weight' is not the source's" in line for line in found)
