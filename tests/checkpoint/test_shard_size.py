"""Shard sizes as people write them."""

from __future__ import annotations

import pytest

from hf_layerprune.checkpoint.shard_size import parse_size
from hf_layerprune.errors import UsageError


@pytest.mark.parametrize(
    ("written", "size"),
    [(None, None), (7, 7), ("7", 7), ("7b", 7), ("5GB", 5_000_000_000), ("5 gib", 5_368_709_120), ("2KiB", 2048), ("3mb", 3_000_000)],
)
def test_sizes(written: int | str | None, size: int | None) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "GB", "1.5GB", "-1", 0, -3, "0", "0MB", "5TB", "٥GB", "5 G B", True])
def test_no_sizes(written: int | str) -> None:
    with pytest.raises(UsageError, match="expected a whole number of bytes, or of a unit") as caught:
        parse_size(written)
    assert "\n" not in str(caught.value)
