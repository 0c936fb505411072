"""`hf-layerprune heal`: fine-tune a checkpoint by a paper's recipe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hf_layerprune.artifacts.display import by_reason
from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.cli.report import count, model_line
from hf_layerprune.healing.options import HealOptions

if TYPE_CHECKING:
    from hf_layerprune.artifacts.healing_record import HealingRecord
    from hf_layerprune.healing.request import Healing


@click.command(
    short_help="Fine-tune a pruned model by a recipe of a paper.",
    epilog=options.examples(
        "hf-layerprune heal ./mini-mixed-13L --recipe interlace",
        "hf-layerprune heal ./qwen-28L --data math.jsonl,count=9000 --data lmms-lab/LLaVA-OneVision-Data",
    ),
)
@click.argument("source")
@options.from_fields(HealOptions, "asked")
@options.output("the healed model", "DIR", default="./<name>-<recipe>")
@options.processor
@options.lookup
@reporting
def heal(console: Console, source: str, asked: HealOptions, output: Path | None, processor: str | None, lookup: options.Lookup) -> None:
    """Fine-tune SOURCE, pruned or dense, and write the healed checkpoint beside it, in the same layout.

    Runs on one CPU or GPU as it is, and on many with `accelerate launch --config_file examples/zero3.yaml -m hf_layerprune heal
    ...`. What ended early goes on when run again.
    """
    from hf_layerprune.cli.source import named_again, open_source, source_name
    from hf_layerprune.data.store import kept_or_said
    from hf_layerprune.healing.request import resolve

    console = console.of_rank()
    checkpoint = open_source(console, source, lookup, processor=processor)
    console.say(model_line(checkpoint))
    target = output or Path(f"{source_name(checkpoint.id)}-{asked.recipe}")
    resolved = resolve(checkpoint, target, replace(asked, local_files_only=lookup.local_files_only), kept_or_said("data", console.note))
    record, reused = _run(console, resolved)
    for line in _lines(resolved, record, reused):
        console.say(line)
    if asked.keep_adapter:
        console.say(f"next    PeftModel.from_pretrained(model, {str(target)!r}), with the model of {checkpoint.id}")
    else:
        console.say(f"next    hf-layerprune evaluate {options.quoted(target)} --against {named_again(source, checkpoint.source)}")
    console.result({"output": str(target), "reused": reused, "steps": record.steps, "loss": [*record.curve["loss"]], "key": record.key})


def _run(console: Console, healing: Healing) -> tuple[HealingRecord, bool]:
    """Heal, with a bar for the records and one for the steps; an interruption says what is kept, and where."""
    _calm_engines()
    from hf_layerprune.healing.heal import heal as healed

    reached = 0
    with console.progress("preparing", unit="record") as (prepared, _), console.progress("healing", unit="step") as (counted, bar):

        def stepped(step: Mapping[str, float], done: int, total: int) -> None:
            nonlocal reached
            reached = done
            counted(done, total)
            bar.set_postfix_str(f"loss {step['loss']:.4f}, {step['tokens'] / step['seconds']:.0f} tokens/s, {step['memory'] / 1e9:.1f} GB")

        try:
            return healed(healing, preparing=prepared, progress=stepped, say=console.note)
        except KeyboardInterrupt:
            click.get_current_context().obj.resume = _what_is_kept(healing, reached)
            raise


def _what_is_kept(healing: Healing, reached: int) -> str:
    """What an interrupted run lost and what it leaves to the next one. reached: steps that it knows to be done."""
    from hf_layerprune.artifacts.folder import HEALING
    from hf_layerprune.healing.training import saved_states

    if (healing.work / HEALING).is_file():
        return f"the trained weights are kept in {healing.work}; run the same command again and it writes the model."
    states = saved_states(healing.work)
    saved = int(states[-1].name.rpartition("-")[2]) if states else 0
    lost = max(0, reached - saved)
    if saved:
        more = f", {_steps(lost)} lost" if lost else ""
        return f"{_steps(saved)} kept in {healing.work}{more}; run the same command again and it goes on from there."
    every = healing.options.save_steps
    said = f"{_steps(reached)} lost, as the first save comes after {every} (--save-steps)" if reached else "no step was done"
    return f"{said}; run the same command again and it begins anew."


def _steps(count: int) -> str:
    return f"{count} step{'s are' if count != 1 else ' is'}"


def _calm_engines() -> None:
    """Tell DeepSpeed that there is no accelerator where there is none, and keep torch's notes to its developers to itself."""
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _lines(healing: Healing, record: HealingRecord, reused: bool) -> list[str]:
    output = options.quoted(healing.output)
    if reused:
        return [f"{output} was healed from the same checkpoint with the same data and settings already; nothing was changed"]
    trained = record.trained
    what = f"layers {', '.join(map(str, trained.layers))}, by {trained.chosen_by}" if trained.layers else "adapters on every decoder layer"
    first, last = record.mean_losses
    kept = "adapter alone" if healing.options.keep_adapter else "verified: every other tensor identical to its source"
    return [
        *_data_lines(record),
        f"trained {count(trained.parameters)} parameters in {trained.tensors} tensors: {what}",
        f"healed  {record.steps} steps in {record.seconds:.0f} s: loss {first:.4f} -> {last:.4f} (first and last tenth of the steps)",
        f"wrote   {output}   {kept}",
    ]


def _data_lines(record: HealingRecord) -> list[str]:
    lines = []
    for source in record.data.sources:
        left = [f"{number} {words}" for key, words in _LEFT.items() if (number := getattr(source, key))]
        lines.append(f"data    {source.samples} samples of {source.origin}" + (f" ({', '.join(left)})" if left else ""))
    if over := record.data.samples % record.recipe.batch_size:
        lines.append(f"        {over} samples do not fill a last batch of {record.recipe.batch_size} and were not used")
    return lines + [f"  {line}" for line in by_reason(record.data.reasons)[:5]]


_LEFT = {"bad": "unusable", "too_long": "too long", "left_out": "left out", "scaled": "with images scaled down"}
