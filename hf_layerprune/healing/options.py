"""What a healing is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from hf_layerprune.artifacts.option import option


@dataclass(frozen=True)
class HealOptions:
    """How to fine-tune a checkpoint; each field carries its help and unit."""

    recipe: str = option("domain-aware", "`hf-layerprune recipes` lists them.")
    _: KW_ONLY
    settings: Mapping[str, object] = option({}, "A setting of the recipe.", "NAME=VALUE")
    tune_last: int | str | None = option(None, "For a dense SOURCE: train the last N layers in full, a count or a share such as 25%.", "N")
    keep_adapter: bool = option(False, "Write the LoRA adapter alone instead of merging it.")
    seed: int = option(0, "Seed of the order of samples, the adapters and dropout.")
    save_steps: int = option(50, "Steps between two saves; a killed run goes on from one.", "steps")
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = option("none", "Where to send the curve as well.")
    device: Literal["auto", "cuda", "mps", "cpu"] = option("auto", "Where to train.")
    device_map: str | Any = option(
        None, "Spread the model over devices: auto, balanced, sequential, or a JSON file of module: device.", "MAP", "one device"
    )
    data: str | Sequence[str] = option(
        (),
        "NAME_OR_PATH,subset=..,split=..,count=..,weight=..; repeatable.",
        "SPEC",
        "mini,count=4096 for models pruned from mini",
    )
    max_bad: str | float = option("1%", "Share of a source's records that may be unusable.", "SHARE")
    interlace_filter: bool = option(False, "INTERLACE's choice: 1 % of each subset, at most 3 images and 5 turns.")
    render_math: bool = option(False, "Take problems and solutions (NuminaMath-CoT) as images and answers; ours.")
    exclude: Sequence[str] = option((), "With --render-math: leave out the problems in this source.", "SPEC")
    local_files_only: bool = option(False, "")  # whether datasets of the Hub are taken from the cache alone
    overwrite: bool = option(False, "Replace an output that hf-layerprune made.")
