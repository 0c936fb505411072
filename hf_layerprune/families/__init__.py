"""The architectures whose checkpoints can be pruned, one entry each; `FAMILIES` is the list.

To add one: write a `Family` in a file of this folder, enter it below, and give it a fixture in tests/families.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from hf_layerprune.errors import FamilyError, shown
from hf_layerprune.families.family import Family, TensorGroup
from hf_layerprune.families.qwen3_vl import QWEN3_VL
from hf_layerprune.families.qwen3_vl_moe import QWEN3_VL_MOE

__all__ = ["FAMILIES", "Family", "TensorGroup", "family_for"]

FAMILIES: dict[str, Family] = {
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL_MOE,
}


def family_for(config: Mapping[str, Any], where: str) -> Family:
    """The family of a parsed config.json; FamilyError naming `where` and the nearest family if it is not declared."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FamilyError(f"{where}: 'model_type' is {shown(model_type)}, expected one of: {', '.join(FAMILIES)}. Is it a model's config?")
    if model_type not in FAMILIES:
        nearest = get_close_matches(model_type, FAMILIES, n=1, cutoff=0)[0]
        raise FamilyError(
            f"{where}: model_type {shown(model_type)} is not declared (nearest: {nearest!r}; known: {', '.join(FAMILIES)}). "
            "To support it, add a Family with its layer prefix, tensors and depth-bearing lists to hf_layerprune/families/."
        )
    family = FAMILIES[model_type]
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or any(name not in family.architectures for name in architectures):
        raise FamilyError(
            f"{where}: architectures {shown(architectures)} differ from {list(family.architectures)}: another head has other tensors. "
            f"Declare it in hf_layerprune/families/{model_type}.py."
        )
    return family
