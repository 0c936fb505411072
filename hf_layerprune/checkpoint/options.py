"""How a checkpoint is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError, shown

UNITS = {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}


@dataclass(frozen=True)
class WriteOptions:
    """How a pruned checkpoint is written. Raises UsageError for a size that is not one, and for options that exclude each other."""

    overwrite: bool = option(False, "Replace an output that hf-layerprune made.")
    max_shard_size: int | str | None = option(None, "Such as 5GB.", "SIZE", "the source's shards")
    verify: bool = option(True, "Skip comparing what was written with the source.")
    stream: bool = option(False, "Fetch a Hub id's shards one at a time and keep none.")

    def __post_init__(self) -> None:
        if self.shard_bytes is not None and self.stream:
            raise UsageError("--stream keeps the source's shards, one at a time: leave out --max-shard-size.")

    @cached_property
    def shard_bytes(self) -> int | None:
        """The most bytes of tensors in a shard, from a number or a text such as "5GB" (powers of ten) or "5GiB" (of two)."""
        if self.max_shard_size is None:
            return None
        text = str(self.max_shard_size).strip().upper()
        unit = next(unit for unit in UNITS if text.endswith(unit))
        number = text.removesuffix(unit).strip()
        if isinstance(self.max_shard_size, bool) or not (number.isascii() and number.isdecimal() and int(number)):
            raise UsageError(
                f"--max-shard-size {shown(self.max_shard_size)}: expected a whole number of bytes, or of a unit, such as 5GB or 500MiB."
            )
        return int(number) * UNITS[unit]
