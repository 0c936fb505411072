"""Run a healing from the command line: what the options ask for, a progress bar, and what came of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.cli.console import Console
from hf_layerprune.cli.options import quoted
from hf_layerprune.cli.report import count
from hf_layerprune.cli.source import named_again, source_name
from hf_layerprune.data.limits import parse_max_bad
from hf_layerprune.data.spec import DataSpec
from hf_layerprune.healing.data_request import DataRequest, data_sources
from hf_layerprune.healing.heal import heal
from hf_layerprune.healing.recipes import Recipe, recipe_named
from hf_layerprune.healing.request import HealingRequest


def healing_request(checkpoint: Checkpoint, name: str, options: Mapping[str, Any], output: Path | None, overwrite: bool) -> HealingRequest:
    """What the options ask for, refused here where it cannot be."""
    recipe = recipe_named(name).changed(options["settings"])
    rest = {key: value for key, value in options.items() if key != "settings"}
    target = output or Path(f"{source_name(checkpoint.id)}-{name}")
    request = HealingRequest(checkpoint, target, recipe, overwrite=overwrite, **rest)
    request.check()
    return request


def data_request(checkpoint: Checkpoint, recipe: Recipe, options: Mapping[str, Any], lookup: Mapping[str, Any]) -> DataRequest:
    return DataRequest(
        data_sources(options["data"], checkpoint.path, recipe),
        max_bad=parse_max_bad(options["max_bad"]),
        interlace_filter=options["interlace_filter"],
        render_math=options["render_math"],
        exclude=tuple(DataSpec.parse(text) for text in options["exclude"]),
        cache=kept_folder("data"),
        local_files_only=lookup["local_files_only"],
    )


def run(console: Console, source: str, request: HealingRequest, data: DataRequest) -> None:
    """Heal, with a bar for the data and one for the steps, and say what was done."""
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
            request,
            lambda processor, recipe, seed: data.prepare(processor, recipe, seed, prepared, console.note),
            progress=stepped,
            say=console.note,
        )
    for line in _lines(request, record, reused):
        console.say(line)
    console.say(_next(request, source))
    console.result(
        {"output": str(request.output), "reused": reused, "steps": record.steps, "loss": [*record.curve["loss"]], "key": record.key}
    )


def _calm_engines() -> None:
    """Tell DeepSpeed that there is no accelerator where there is none, and keep torch's notes to its developers to itself."""
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _next(request: HealingRequest, source: str) -> str:
    if request.keep_adapter:
        return f"next    PeftModel.from_pretrained(model, {str(request.output)!r}), with the model of {request.checkpoint.id}"
    return f"next    hf-layerprune evaluate {quoted(request.output)} --against {named_again(source, request.checkpoint.source)}"


def _lines(request: HealingRequest, record: HealingRecord, reused: bool) -> list[str]:
    if reused:
        return [
            f"{quoted(request.output)} was healed from the same checkpoint with the same data and settings already; nothing was changed"
        ]
    trained, layers = record.trained, len(record.trained.layers)
    what = f"layers {', '.join(map(str, trained.layers))}, by {trained.chosen_by}" if layers else "adapters on every decoder layer"
    loss, tenth = record.curve["loss"], max(1, record.steps // 10)
    kept = "adapter alone" if request.keep_adapter else "verified: every other tensor identical to its source"
    return [
        *_data_lines(record),
        f"trained {count(trained.parameters)} parameters in {trained.tensors} tensors: {what}",
        f"healed  {record.steps} steps in {record.seconds:.0f} s: loss {sum(loss[:tenth]) / tenth:.4f} -> {sum(loss[-tenth:]) / tenth:.4f}"
        f" (first and last tenth of the steps)",
        f"wrote   {quoted(request.output)}   {kept}",
    ]


def _data_lines(record: HealingRecord) -> list[str]:
    lines = []
    for source in record.data.sources:
        left = [f"{number} {words}" for key, words in _LEFT.items() if (number := getattr(source, key))]
        lines.append(f"data    {source.samples} samples of {source.origin}" + (f" ({', '.join(left)})" if left else ""))
    if over := record.data.samples % record.recipe.batch_size:
        lines.append(f"        {over} samples do not fill a last batch of {record.recipe.batch_size} and were not used")
    lines += [f"  {reason}" for reason in record.data.reasons[:5]]
    return lines


_LEFT = {"bad": "bad", "too_long": "too long", "left_out": "left out", "scaled": "with pictures scaled down"}
