"""What there is to say of every strategy that is installed, as plain values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hf_layerprune.strategies import find_strategy, known_strategies, package_of


def catalogue() -> list[dict[str, Any]]:
    """One entry a strategy, ours and third-party ones, by name."""
    return [_entry(name) for name in known_strategies()]


def _entry(name: str) -> dict[str, Any]:
    strategy = find_strategy(name)
    return {
        "name": name,
        "package": package_of(name),
        "paper": strategy.paper,
        "score_meaning": strategy.score_meaning,
        "needs": sorted(strategy.needs),
        "parameters": [
            {"name": item.name, "type": str(item.type), "default": item.default, "help": item.metadata.get("help", "")}
            for item in fields(strategy.parameters)
        ],
    }
