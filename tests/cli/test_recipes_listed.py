"""`hf-layerprune recipes`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hf_layerprune.healing.recipes import DOMAIN_AWARE, INTERLACE, described


def test_the_list_of_recipes_marks_what_is_ours(run_here: Callable[..., Any]) -> None:
    """Every line begins with a star or a blank; the datasets' ids on the Hub are ours as well."""
    said = run_here("recipes").stdout
    first, second = said.split("\ninterlace ")
    for recipe, lines in ((DOMAIN_AWARE, first.splitlines()), (INTERLACE, second.splitlines())):
        marked = {line.split()[1] for line in lines if re.match(r"\* [a-z_]+\d? {2,}", line)}
        assert marked == set(recipe.ours)
        assert all(any(line[2:].startswith(f"{name} ") for line in lines) for name in described(recipe))
    assert "* lora_targets             q_proj k_proj v_proj o_proj gate_proj up_proj down_proj " in first
    assert "ours: lmms-lab/LLaVA-OneVision-Data" in first and "ours: HuggingFaceM4/FineVision" in second


def test_json_names_what_is_ours(run_here: Callable[..., Any]) -> None:
    found = json.loads(run_here("recipes", "--json").stdout)
    assert found["domain-aware"]["optimizer"] == "AdamW" and "optimizer" in found["domain-aware"]["ours"]
    assert found["interlace"]["ours"] == sorted(INTERLACE.ours)
