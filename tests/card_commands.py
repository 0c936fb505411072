"""The commands that a model card prints, each as one line."""

from __future__ import annotations


def commands(card: str) -> list[str]:
    return [line for line in card.replace(" \\\n  ", " ").splitlines() if line.startswith("hf-layerprune ")]


def command(card: str, name: str) -> str:
    (found,) = (line for line in commands(card) if line.startswith(f"hf-layerprune {name} "))
    return found
