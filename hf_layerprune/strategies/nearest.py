"""Tell somebody who mistyped a name which ones there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def known_names(name: str, known: Iterable[str]) -> str:
    """The rest of an error about an unknown name: the nearest known one if there is one, then all of them."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Known: {', '.join(names)}."
