"""What a healing is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_layerprune.artifacts.option import DEVICE_MAP, option
from hf_layerprune.data.records import Tolerance
from hf_layerprune.errors import UsageError
from hf_layerprune.healing.recipes import changed, recipe_named

if TYPE_CHECKING:
    from hf_layerprune.data.tables import DataSpec


@dataclass(frozen=True)
class HealOptions:
    """How to fine-tune a checkpoint; each field carries its help and unit. UsageError for values that cannot be honoured."""

    recipe: str = option("domain-aware", "`hf-layerprune recipes` lists them.")
    _: KW_ONLY
    settings: Mapping[str, object] = option({}, "A setting of the recipe.", "NAME=VALUE")
    tune_last: int | str | None = option(None, "For a dense SOURCE: train the last N layers in full, a count or a share such as 25%.", "N")
    keep_adapter: bool = option(False, "Write the LoRA adapter alone instead of merging it.")
    seed: int = option(0, "Seed of the order of samples, the adapters and dropout.")
    save_steps: int = option(50, "Steps between two saves; a killed run goes on from one.", "steps")
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = option("none", "Where to send the curve as well.")
    device: Literal["auto", "cuda", "mps", "cpu"] = option("auto", "Where to train.")
    device_map: str | Any = option(*DEVICE_MAP)
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

    def __post_init__(self) -> None:
        """UsageError for what no checkpoint could be healed with, so that it is told before weights are fetched."""
        changed(recipe_named(self.recipe), self.settings)
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed {self.seed}: expected a number from 0 to {(1 << 32) - 1}.")
        if self.save_steps < 1:
            raise UsageError(f"--save-steps {self.save_steps}: expected at least 1.")
        if self.exclude and not self.render_math:
            raise UsageError("--exclude names problems that --render-math leaves out: add --render-math, or leave it out.")
        Tolerance.parse(self.max_bad)
        for sources in (self.data, self.exclude):
            parse_specs(sources)


def parse_specs(sources: str | Sequence[str]) -> tuple[DataSpec, ...]:
    """The sources that `data` or `exclude` names; UsageError for a text that names none."""
    if not sources:
        return ()
    from hf_layerprune.data.tables import DataSpec

    return tuple(map(DataSpec.parse, [sources] if isinstance(sources, str) else sources))
