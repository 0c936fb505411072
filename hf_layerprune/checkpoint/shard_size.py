"""The greatest size of a shard, as people write it."""

from __future__ import annotations

from hf_layerprune.errors import UsageError, shown

_UNITS = {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}


def parse_size(size: int | str | None) -> int | None:
    """Bytes, or a text such as "5GB" (powers of ten) or "5GiB" (of two); None stays None. UsageError otherwise."""
    if size is None:
        return None
    text = str(size).strip().upper()
    unit = next(unit for unit in _UNITS if text.endswith(unit))
    number = text.removesuffix(unit).strip()
    if isinstance(size, bool) or not (number.isascii() and number.isdecimal() and int(number)):
        raise UsageError(f"shard size {shown(size)}: expected a whole number of bytes, or of a unit, such as 5GB or 500MiB.")
    return int(number) * _UNITS[unit]
