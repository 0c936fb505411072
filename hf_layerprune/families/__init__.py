"""The architectures whose checkpoints can be pruned. The dict below lists ours; other packages add theirs by entry point.

To add one: write a `Family` and enter it below, or register it as an entry point `<model_type> = module:FAMILY` of the group
`hf_layerprune.families`; give it a fixture in tests/families.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_layerprune.errors import FamilyError, shown
from hf_layerprune.families.family import Family, ImageTokens, find
from hf_layerprune.families.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from hf_layerprune.registry import OURS, Registry, known_names

__all__ = ["FAMILIES", "Family", "declared_in", "family_for", "headless", "image_tokens_of"]

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (QWEN3_VL, QWEN3_VL_MOE)}


def family_for(config: Mapping[str, Any], where: str) -> Family:
    """The family of a parsed config.json; FamilyError naming `where` and the nearest family if it is not declared."""
    model_type, known = config.get("model_type"), _REGISTRY.names()
    if not isinstance(model_type, str):
        raise FamilyError(f"{where}: 'model_type' is {shown(model_type)}, expected one of: {', '.join(known)}. Is it a model's config?")
    if model_type not in known:
        raise FamilyError(
            f"{where}: model_type {shown(model_type)} is not declared. {known_names(model_type, known)} "
            "To support it, add a Family with its layouts and depth-bearing lists to hf_layerprune/families/, or in a package of its own."
        )
    family = _REGISTRY.find(model_type)
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or any(
        name not in (*family.architectures, *family.base_architectures) for name in architectures
    ):
        raise FamilyError(
            f"{where}: architectures {shown(architectures)} differ from {list(family.architectures)}: another head has other tensors. "
            f"Declare it in {declared_in(family)}."
        )
    return family


def headless(family: Family, config: Mapping[str, Any]) -> bool:
    """Whether a config is of a model without a head: of the base class, and with no embedding tied to one."""
    architectures = config.get("architectures") or []
    return bool(architectures) and {*architectures} <= {*family.base_architectures} and find(config, family.tied) is not True


def declared_in(family: Family) -> str:
    """Where a family is declared, for an error that asks for a change there."""
    package = _REGISTRY.package_of(family.model_type)
    return "hf_layerprune/families/" if package == OURS else f"the family {family.model_type!r} of package {package!r}"


def image_tokens_of(processors: Iterable[str]) -> ImageTokens | None:
    """How the first of some processor classes that a family declares marks images; our families are asked first."""
    names = [*FAMILIES, *(name for name in _REGISTRY.names() if name not in FAMILIES)]
    wanted, declared = {*processors}, (_REGISTRY.find(name).images for name in names)
    return next((images for images in declared if images.processor in wanted), None)


def _problem(family: object, name: str) -> str | None:
    """Why an object cannot serve as the family `name`, or None."""
    if not isinstance(family, Family):
        return f"got {type(family).__name__}, expected a Family"
    return None if family.model_type == name else f"its model_type is {family.model_type!r}"


_REGISTRY = Registry("family", "families", "hf_layerprune.families", FAMILIES, _problem, FamilyError)
