"""A plan to save, load and damage."""

from __future__ import annotations

import pytest
from hypothesis import settings

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan

settings.register_profile("any-machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any-machine")


@pytest.fixture
def plan() -> PruningPlan:
    return PruningPlan(
        source=SourceRef("mini", None, "ab" * 32),
        family="qwen3_vl",
        budget=Budget("0.34", "middle", 1),
        strategy="mixed",
        parameters={"alpha": 0.7},
        score_meaning="R, the highest go",
        scores=(None, 0.25, -1.5, 0.1 + 0.2, None),
        protected=(0, 4),
        forced=(),
        drop=(3,),
        keep=(0, 1, 2, 4),
        tune=(2,),
        freeze=(0, 1, 4),
        statistics="cd" * 32,
        original_layers=(0, 1, 3, 4, 7),
    )
