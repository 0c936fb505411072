"""Unusable records: the error that names one, and how many of them are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from hf_layerprune.errors import DataError, UsageError

LISTED = 100  # unusable records whose reason is recorded; the others are only counted


class UnusableRecord(Exception):
    """A record that cannot be used; the text says which and why. Counted against a Tolerance, never raised to the user."""


@dataclass(frozen=True)
class Tolerance:
    """How many unusable records are put up with: `share` of all of them, rounded down."""

    share: Decimal = Decimal("0.01")

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Read `1%` or `0.01`, from 0 to below 1; UsageError otherwise."""
        return cls(parse_max_bad(text))

    def exceeded(self, unusable: int, total: int) -> bool:
        """Whether that many of `total` records are too many."""
        return unusable > int(self.share * total)

    def check(self, unusable: int, total: int, what: str, reasons: Sequence[str]) -> None:
        """DataError with the first three reasons if too many are unusable. what: the records in the plural, "math images"."""
        if self.exceeded(unusable, total):
            raise DataError(
                f"{'; '.join(reasons[:3])}. That makes {unusable} unusable of {total:,} {what}, more than the {int(self.share * total)} "
                f"that --max-bad {percent(self.share)} allows. Mend or remove them, or raise --max-bad."
            )


def parse_max_bad(text: str) -> Decimal:
    """`1%` or `0.01`: the share of the records that may be unusable, from 0 to below 1. UsageError otherwise."""
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
