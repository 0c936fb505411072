"""Which tensors a checkpoint must have: derived from its config by the family's rules, without building the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hf_layerprune.families.family import Family, TensorGroup
from hf_layerprune.families.lookup import find, positive

MAX_MODULES = 10_000  # no tower is that deep; a hostile count must not become a loop of that length


def expected_tensors(family: Family, config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the config asks for.

    Raises FamilyError naming `where` when a key that a rule needs is absent or no whole number of at least 1.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for group in family.tensors:
        if group.when is None or (find(config, group.when[0]) is True) == group.when[1]:
            shapes.update(_group(group, config, where))
    return shapes


def _group(group: TensorGroup, config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    one = {name: tuple(_dimension(rule, group.section, config, where) for rule in shape.split()) for name, shape in group.shapes.items()}
    modules = range(_count(group.count, config, where)) if group.count else ("",)
    return {f"{group.prefix.format(module)}{name}": shape for module in modules for name, shape in one.items()}


def _count(path: str, config: Mapping[str, Any], where: str) -> int:
    value = find(config, path)
    return min(len(value) if isinstance(value, list) else positive(config, path, where), MAX_MODULES)


def _dimension(rule: str, section: str, config: Mapping[str, Any], where: str) -> int:
    return math.prod(int(part) if part.isdigit() else positive(config, f"{section}.{part}", where) for part in rule.split("*"))
