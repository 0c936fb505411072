"""Run a healing from the command line: a progress bar, and what came of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import click

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.options import quoted
from hf_layerprune.cli.report import count
from hf_layerprune.cli.source import named_again
from hf_layerprune.healing.heal import heal
from hf_layerprune.healing.options import HealOptions


def run(console: Console, source: str, checkpoint: Checkpoint, output: Path, options: HealOptions) -> None:
    """Heal, with a bar for the records and one for the steps, and say what was done. source: as it was typed."""
    _calm_engines()
    click.get_current_context().obj.resume = "what was saved is kept; run the same command again and it goes on from there."
    with console.progress("preparing", unit="record") as preparing, console.progress("healing", unit="step") as bar:

        def prepared(done: int, total: int) -> None:
            preparing.total = total
            preparing.update(done - preparing.n)

        def stepped(step: Mapping[str, float], done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            bar.set_postfix_str(f"loss {step['loss']:.4f}, {step['tokens'] / step['seconds']:.0f} tokens/s, {step['memory'] / 1e9:.1f} GB")

        record, reused = heal(
            checkpoint, output, options, cache=kept_folder("data"), preparing=prepared, progress=stepped, say=console.note
        )
    for line in [_reused(output)] if reused else _lines(output, options, record):
        console.say(line)
    compared = named_again(source, checkpoint.source)
    if options.keep_adapter:
        console.say(f"next    PeftModel.from_pretrained(model, {str(output)!r}), with the model of {checkpoint.id}")
    else:
        console.say(f"next    hf-layerprune evaluate {quoted(output)} --against {compared}")
    console.result({"output": str(output), "reused": reused, "steps": record.steps, "loss": [*record.curve["loss"]], "key": record.key})


def _calm_engines() -> None:
    """Tell DeepSpeed that there is no accelerator where there is none, and keep torch's notes to its developers to itself."""
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _reused(output: Path) -> str:
    return f"{quoted(output)} was healed from the same checkpoint with the same data and settings already; nothing was changed"


def _lines(output: Path, options: HealOptions, record: HealingRecord) -> list[str]:
    trained = record.trained
    what = f"layers {', '.join(map(str, trained.layers))}, by {trained.chosen_by}" if trained.layers else "adapters on every decoder layer"
    loss, tenth = record.curve["loss"], max(1, record.steps // 10)
    kept = "adapter alone" if options.keep_adapter else "verified: every other tensor identical to its source"
    return [
        *_data_lines(record),
        f"trained {count(trained.parameters)} parameters in {trained.tensors} tensors: {what}",
        f"healed  {record.steps} steps in {record.seconds:.0f} s: loss {sum(loss[:tenth]) / tenth:.4f} -> {sum(loss[-tenth:]) / tenth:.4f}"
        f" (first and last tenth of the steps)",
        f"wrote   {quoted(output)}   {kept}",
    ]


def _data_lines(record: HealingRecord) -> list[str]:
    lines = []
    for source in record.data.sources:
        left = [f"{number} {words}" for key, words in _LEFT.items() if (number := getattr(source, key))]
        lines.append(f"data    {source.samples} samples of {source.origin}" + (f" ({', '.join(left)})" if left else ""))
    if over := record.data.samples % record.recipe.batch_size:
        lines.append(f"        {over} samples do not fill a last batch of {record.recipe.batch_size} and were not used")
    return lines + [f"  {reason}" for reason in record.data.reasons[:5]]


_LEFT = {"bad": "unusable", "too_long": "too long", "left_out": "left out", "scaled": "with images scaled down"}
