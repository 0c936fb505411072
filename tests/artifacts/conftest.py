"""A plan and statistics to save, load and damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes

settings.register_profile("any-machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any-machine")

ALL_TASKS = tuple(task for domain in DOMAINS for task in subtasks(domain))


@pytest.fixture
def facts() -> ModelFacts:
    return ModelFacts(SourceRef("mini", None, "ab" * 32), "qwen3_vl", layers=5, hidden_size=3, deepstack_layers=1)


@pytest.fixture
def plan(facts: ModelFacts) -> PruningPlan:
    return PruningPlan(
        source=facts.source,
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


@pytest.fixture
def make_statistics(facts: ModelFacts) -> Callable[..., LayerStatistics]:
    """Statistics drawn from a seed; arrays given by name replace drawn ones."""

    def make(seed: int = 0, tasks: tuple[str, ...] = ALL_TASKS, record: ProbeRecord | None = None, **given: Any) -> LayerStatistics:
        draw = np.random.default_rng(seed)
        shapes = array_shapes(len(tasks), facts.layers, facts.hidden_size)
        arrays: dict[str, Any] = {name: draw.random(shape) for name, shape in shapes.items()}
        arrays["samples"] = draw.integers(1, 5, shapes["samples"])
        arrays["tokens"] = 10 * arrays["samples"][:, None] + draw.integers(0, 9, shapes["tokens"])
        arrays |= {name: value if name == "other_domains" else np.asarray(value) for name, value in given.items()}
        return LayerStatistics(facts, record or ProbeRecord({"name": "synthetic", "seed": 0}, {"dtype": "float32"}), tasks, **arrays)

    return make
