"""Models and statistics made by hand, so that every expected number can be worked out on paper; selections, plans and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.prompts import DOMAINS, domain_of, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import make_plan, resolve
from hf_layerprune.strategies.strategy import Evidence, Selection, Strategy

SAMPLES, TOKENS = 4, 10  # of every subtask


def facts_of(layers: int = 16, deepstack: int = 3, name: str = "mini", original: tuple[int, ...] | None = None) -> ModelFacts:
    """Facts of a model with the given number of layers; by default 16 layers, three of them with DeepStack."""
    return ModelFacts(SourceRef(name, None, name.ljust(64, "0")), "qwen3_vl", layers, 4, deepstack, original)


def statistics_of(
    facts: ModelFacts | None = None,
    cosine: Mapping[str, Any] = {},
    token: Sequence[float] | None = None,
    triplet: Sequence[float] | None = None,
    inputs: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
    domains: Sequence[str] = DOMAINS,
) -> LayerStatistics:
    """Statistics with the given means; what is not given is 0.5 everywhere, pooled vectors are drawn from a seed.

    cosine: per domain and layer; token, triplet: per layer and per triplet; inputs, outputs: [task, layer, width].
    """
    facts = facts or facts_of()
    tasks = tuple(task for domain in DOMAINS if domain in domains for task in subtasks(domain))
    shapes = array_shapes(len(tasks), facts.layers, facts.hidden_size)
    arrays: dict[str, Any] = {name: np.full(shape, 0.5 * SAMPLES) for name, shape in shapes.items()}
    arrays["samples"], arrays["tokens"] = np.full(shapes["samples"], SAMPLES), np.full(shapes["tokens"], SAMPLES * TOKENS)
    for row, task in enumerate(tasks):
        arrays["cosine_sum"][row, 0] = SAMPLES * np.asarray(cosine.get(domain_of(task), [0.5] * facts.layers))
    arrays["token_cosine_sum"][:, 0] = SAMPLES * TOKENS * np.asarray([0.5] * facts.layers if token is None else token)
    arrays["triplet_cosine_sum"][:] = SAMPLES * TOKENS * np.asarray([0.5] * (facts.layers - 2) if triplet is None else triplet)
    draw = np.random.default_rng(0)
    for name, given in (("input_pool_sum", inputs), ("output_pool_sum", outputs)):
        arrays[name] = SAMPLES * (draw.normal(size=shapes[name]) if given is None else np.asarray(given, dtype=np.float64))
    return LayerStatistics(facts, ProbeRecord({"name": "by hand"}, {}), tasks, **arrays)


def select(strategy: Strategy, statistics: LayerStatistics | None, free: tuple[int, ...], k: int, parameters: Any = None) -> Selection:
    """What a strategy selects, given the statistics that it asks for; its default parameters if none are given."""
    return strategy.select(Evidence(strategy.needs, statistics), free, k, strategy.parameters() if parameters is None else parameters)


def plan_of(facts: ModelFacts, method: str | None = None, *, statistics: LayerStatistics | None = None, **options: Any) -> PruningPlan:
    """The plan for the options of `PlanOptions`."""
    return make_plan(facts, resolve(facts, PlanOptions(method, **options)), statistics)


def refusal(kind: type[LayerPruneError], *args: Any, **options: Any) -> str:
    """The text of the error that a plan is refused with: of exactly this class, and one line."""
    with pytest.raises(kind) as caught:
        plan_of(*args, **options)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)
