"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.option import DEVICE_MAP, option, parse_dtype
from hf_layerprune.data.records import Tolerance
from hf_layerprune.errors import UsageError
from hf_layerprune.evaluation.scoring import find_scorer

MAX_TOKENS = 1 << 16


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of an evaluation; those without help are for Python alone. UsageError for values that cannot be honoured."""

    tasks: str | Sequence[str] = option(
        (),
        "mini-math, mini-general, a .jsonl or .parquet file, or a dataset's id, with question, image and answer; repeatable.",
        "SPEC",
        "both of mini, for a model that comes from it",
    )
    _: KW_ONLY
    samples: int | None = option(None, "Samples a task.", "N", "500 of a mini domain, all of any other task")
    allow_fewer: bool = option(False, "Go on with fewer samples than --samples.")
    scorer: str | None = option(
        None,
        "relaxed: numbers within 5 %, as ChartQA has it.",
        "exact|relaxed|choice",
        "choice for a record with choices, else exact",
    )
    max_new_tokens: int | None = option(
        None,
        "Where an answer is truncated.",
        "N",
        "48 for mini, 32 for multiple choice, else 256; a model that thinks first needs more",
    )
    seed: int = option(0, "Seed of the samples that are drawn.", "N")
    batch_size: int | None = option(None, "Questions at once.", "N", "up to 64, fewer for wide models")
    max_bad: str | float = option("1%", "Share of a task's records that may be unusable.", "SHARE")
    device: str = option("auto", "Where to run the model.", "auto|cuda|mps|cpu")
    dtype: str = option("auto", "Precision.", "TYPE", "float32 on a CPU, else the checkpoint's")
    overwrite: bool = option(False, "Replace an output that hf-layerprune made.")
    local_files_only: bool = option(False, "")
    device_map: str | Any = option(*DEVICE_MAP)
    attn_implementation: str | None = option(None, "")
    answers_folder: Path | str | None = option(None, "")  # where answers are kept between runs, None for one in the cache

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", parse_dtype(self.dtype))
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least 1 is needed.")
        if self.max_new_tokens is not None and not 1 <= self.max_new_tokens <= MAX_TOKENS:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: expected a number from 1 to {MAX_TOKENS:,}.")
        if self.scorer is not None:
            find_scorer(self.scorer)
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1 is needed.")
        Tolerance.parse(self.max_bad)

    @property
    def names(self) -> Sequence[str]:
        """The tasks by name, none for the default."""
        return [self.tasks] if isinstance(self.tasks, str) else self.tasks

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance.parse(self.max_bad)

    @property
    def loading(self) -> Mapping[str, Any]:
        """How the model is loaded, as `from_pretrained` takes it."""
        return {"device_map": self.device_map, "attn_implementation": self.attn_implementation}
