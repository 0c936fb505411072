"""What a probe is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.option import DEVICE_MAP, option, parse_dtype
from hf_layerprune.artifacts.prompts import PROBED_PIXELS
from hf_layerprune.data.records import Tolerance
from hf_layerprune.errors import UsageError

LEAST_PIXELS = 32 * 32  # one merged patch of Qwen3-VL


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """The options of a probe; UsageError for a value that cannot be honoured."""

    math_images: str | Path | None = option(
        None, "Math images: a folder of them, or records in a file, a folder or a dataset on the Hub.", "SPEC", "synthetic ones"
    )
    general_images: str | Path | None = option(None, "Other images, likewise.", "SPEC", "synthetic ones")
    samples: int | None = option(None, "Images a domain.", "N", "32 synthetic; all of your own, at most 1,000 as in the paper")
    allow_fewer: bool = option(False, "Continue with fewer images than --samples.")
    max_bad: str | float = option("1%", "Share of a domain's images that may be unusable.", "SHARE")
    no_cache: bool = option(False, "Neither reuse statistics of an earlier run nor keep these.")
    device: str = option("auto", "Where to run the model.", "auto|cuda|mps|cpu")
    dtype: str = option("auto", "Precision of the probe.", "TYPE", "float32 on a CPU, else the checkpoint's")
    max_pixels: int = option(PROBED_PIXELS, "Scale larger images down to so many pixels.", "N")
    device_map: str | Any = option(*DEVICE_MAP)
    local_files_only: bool = option(False, "")

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", parse_dtype(self.dtype))
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least 1 image a domain is needed.")
        if self.max_pixels < LEAST_PIXELS:
            raise UsageError(f"--max-pixels {self.max_pixels}: at least {LEAST_PIXELS} are needed.")
        self.tolerance  # noqa: B018  # refused before anything is opened

    @cached_property
    def tolerance(self) -> Tolerance:
        """`max_bad`, parsed."""
        return Tolerance.parse(self.max_bad)

    @property
    def places(self) -> Mapping[str, str | Path]:
        """Where the images of each domain are that was given a place."""
        given = {"math": self.math_images, "nonmath": self.general_images}
        return {domain: place for domain, place in given.items() if place is not None}
