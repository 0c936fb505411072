"""Speed and memory of healing, side by side in one run.

    python examples/benchmarks/healing.py speed  [--rounds 5] [--steps 8]     # our loop and transformers' bare Trainer
    python examples/benchmarks/healing.py memory [--steps 2]                  # one and two ZeRO-3 processes, 0.33 B parameters

speed: the same model (mini), adapters, samples and settings; each round runs one after the other in processes of their own, the
time is that of the steps after the first. memory: a model of 24 random layers, all trained in full, by `hf-layerprune heal`
under `accelerate launch`; private memory (RssAnon) of each process, the most that was seen while it ran.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BATCH, MICRO = 32, 16
ZERO3 = Path(__file__).parents[1] / "zero3_cpu.yaml"


def child(kind: str, steps: int) -> None:
    """One run of `kind` in this process; prints the seconds a step and the last loss."""
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.healing.dataset import prepare_data
    from hf_layerprune.healing.encoding import Collator
    from hf_layerprune.healing.options import HealOptions
    from hf_layerprune.healing.request import resolve
    from hf_layerprune.healing.weights import trained_model
    from hf_layerprune.mini import model_path
    from hf_layerprune.models.batches import load_processor

    settings = {"batch_size": BATCH, "micro_batch_size": MICRO, "learning_rate": 1e-3, "gradient_checkpointing": "none", "lora_dropout": 0}
    options = HealOptions("domain-aware", settings | {"max_length": 2048}, data=f"mini,count={BATCH * steps}", max_bad="0")
    healing = resolve(Checkpoint.open(model_path(), "mini"), Path("nothing-is-written"), options, None)
    processor = load_processor(model_path())
    data = prepare_data(healing.data, processor)
    model = trained_model(healing, sharded=False)
    times, loss = (ours if kind == "ours" else bare)(model, healing.recipe, data, Collator.of(processor))
    print(json.dumps({"seconds": statistics.median(times[1:]), "loss": loss}))


def ours(model: Any, recipe: Any, data: Any, collate: Any) -> tuple[list[float], float]:
    from hf_layerprune.healing.engine import start_engine
    from hf_layerprune.healing.training import Trainer

    steps = list(Trainer(start_engine(recipe, Path(), "none", "cpu"), model, recipe, data, collate).run())
    return [step.seconds for step in steps], steps[-1].loss


def bare(model: Any, recipe: Any, data: Any, collate: Any) -> tuple[list[float], float]:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            times.append(time.monotonic())

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
            return SequentialSampler(data)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=MICRO, gradient_accumulation_steps=BATCH // MICRO, num_train_epochs=1, use_cpu=True,
            bf16=True, learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", weight_decay=recipe.weight_decay, logging_steps=1,
            max_grad_norm=1.0, report_to="none", save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = InOrder(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()])
        trainer.train()
    seconds = [after - before for before, after in pairwise(times)]  # with the making of the samples, as ours
    return [0.0, *seconds], next(line["loss"] for line in reversed(trainer.state.log_history) if "loss" in line)


def speed(rounds: int, steps: int) -> None:
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    losses = {}
    for _ in range(rounds):
        for kind in seconds:
            command = [sys.executable, __file__, "child", "--kind", kind, "--steps", str(steps)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            seconds[kind].append(json.loads(line)["seconds"])
            losses[kind] = json.loads(line)["loss"]
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    print("| loop | s a step (median) | ratio (median of pairs) | lowest and highest | loss of the last step |\n|---|---|---|---|---|")
    print(
        f"| ours | {statistics.median(seconds['ours']):.2f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
        f"| {losses['ours']:.4f} |\n| transformers' Trainer | {statistics.median(seconds['bare']):.2f} | 1 | | {losses['bare']:.4f} |"
    )
    print(f"\n{rounds} rounds of {steps} steps of {BATCH} samples, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")


def random_model(folder: Path) -> int:
    """mini with 24 layers of width 1024 and random weights; the number of parameters."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from hf_layerprune.mini import model_path
    from hf_layerprune.models.loading import parameter_shapes

    shutil.copytree(model_path(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16, head_dim=64
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    config["text_config"]["rope_parameters"] = rope
    config["text_config"].pop("layer_types", None)
    config["vision_config"]["out_hidden_size"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    shapes = parameter_shapes(config, "benchmark")
    torch.manual_seed(0)
    save_file(
        {name: torch.randn(shape).mul_(0.02).bfloat16() for name, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return sum(int(np.prod(shape)) for shape in shapes.values())


def memory(steps: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        parameters = random_model(Path(place) / "model")
        print(f"{parameters / 1e9:.2f} B parameters\n\n| ZeRO-3 processes | private memory of each, GB |\n|---|---|")
        for processes in (1, 2):
            heal = (
                f"heal model --recipe interlace --tune-last 100% --data mini,count={4 * steps} --set batch_size=4 --set micro_batch_size=1"
            )
            launch = ["-m", "accelerate.commands.launch", "--config_file", str(ZERO3), "--num_processes", str(processes)]
            command = [sys.executable, *launch, "-m", "hf_layerprune", *heal.split(), "-o", f"out{processes}", "--save-steps", "1000"]
            run = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            peaks: dict[int, int] = {}
            while run.poll() is None:
                for rank in subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False).stdout.split():
                    peaks[int(rank)] = max(peaks.get(int(rank), 0), private(int(rank)))
                time.sleep(0.05)
            if run.returncode:
                sys.exit(run.stderr.read() if run.stderr else "failed")
            print(f"| {processes} | {', '.join(f'{peak / 1e9:.2f}' for peak in peaks.values() if peak > 1e8)} |", flush=True)


def private(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "child"])
    parser.add_argument("--kind", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    if options.what == "child":
        child(options.kind, options.steps)
    elif options.what == "speed":
        speed(options.rounds, options.steps)
    else:
        memory(options.steps)


if __name__ == "__main__":
    main()
