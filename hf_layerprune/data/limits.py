"""How many bad records are too many."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from hf_layerprune.errors import UsageError


def parse_max_bad(text: str) -> Decimal:
    """`1%` or `0.01`: the share of the records that may be bad, from 0 to below 1. UsageError otherwise."""
    try:
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        share = Decimal("nan")
    if not (share.is_finite() and 0 <= share < 1):
        raise UsageError(f"--max-bad {text!r}: expected a share from 0 to below 1, such as 1% or 0.01.")
    return share


def percent(share: Decimal) -> str:
    """A share as one types it: 0.01 is 1%."""
    return f"{share:%}".rstrip("0").rstrip(".%") + "%"
