"""Which tensors a checkpoint must have: derived from its config by the family's rules, without building the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_layerprune.errors import FamilyError
from hf_layerprune.families.family import Family, TensorGroup
from hf_layerprune.families.lookup import find, positive

MAX_MODULES = 10_000  # no tower is that deep; a hostile count must not become a loop of that length


def expected_tensors(family: Family, config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the config asks for.

    Raises FamilyError naming `where` when a key that a rule needs is absent or no whole number of at least 1, or stands there
    under two names with two values. Lists of layers are those that `model_facts` has let pass.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for group in family.tensors:
        if group.when is None or (find(config, group.when[0]) is True) == group.when[1]:
            shapes.update(_group(group, config, where))
    return shapes


def _group(group: TensorGroup, config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    one = {name: tuple(_dimension(rule, group.section, config, where) for rule in shape.split()) for name, shape in group.shapes.items()}
    modules = _modules(group, config, where)
    return {f"{group.prefix.format(module)}{name}": shape for module in modules for name, shape in one.items()}


def _modules(group: TensorGroup, config: Mapping[str, Any], where: str) -> Iterable[object]:
    if group.count is None:
        return ("",)
    modules = range(_count(group.count, config, where))
    if group.listed is None:
        return modules
    path, inside = group.listed
    listed = frozenset(find(config, path) or ())
    return [module for module in modules if (module in listed) == inside]


def _count(path: str, config: Mapping[str, Any], where: str) -> int:
    value = find(config, path)
    return min(len(value) if isinstance(value, list) else positive(config, path, where), MAX_MODULES)


def _dimension(rule: str, section: str, config: Mapping[str, Any], where: str) -> int:
    return math.prod(int(part) if part.isdigit() else _number(part.split("|"), section, config, where) for part in rule.split("*"))


def _number(names: list[str], section: str, config: Mapping[str, Any], where: str) -> int:
    """The number that stands under any of a key's names. Which of two values counts depends on who loads the model: refused."""
    paths = [f"{section}.{name}" for name in names]
    values = [positive(config, path, where) for path in paths if find(config, path) is not None] or [positive(config, paths[0], where)]
    if len(set(values)) > 1:
        raise FamilyError(f"{where}: {' and '.join(map(repr, paths))} are one key by two names, and differ: {values}. Remove one of them.")
    return values[0]
