"""Models and statistics made by hand, so that every expected number in these tests can be worked out on paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.artifacts.prompts import DOMAINS, domain_of, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes

settings.register_profile("any-machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any-machine")

MakeFacts = Callable[..., ModelFacts]
MakeStatistics = Callable[..., LayerStatistics]

SAMPLES, TOKENS = 4, 10  # of every subtask


@pytest.fixture(scope="session")
def make_facts() -> MakeFacts:
    """Facts of a model with the given number of layers; by default 16 layers, three of them with DeepStack."""

    def make(layers: int = 16, deepstack: int = 3, name: str = "mini", original: tuple[int, ...] | None = None) -> ModelFacts:
        return ModelFacts(SourceRef(name, None, name.ljust(64, "0")), "qwen3_vl", layers, 4, deepstack, original)

    return make


@pytest.fixture(scope="session")
def make_statistics(make_facts: MakeFacts) -> MakeStatistics:
    """Statistics with the given means; what is not given is 0.5 everywhere, pooled vectors are drawn from a seed.

    cosine: per domain and layer; token, triplet: per layer and per triplet; inputs, outputs: [task, layer, width].
    """

    def make(
        facts: ModelFacts | None = None,
        cosine: Mapping[str, Sequence[float]] = {},
        token: Sequence[float] | None = None,
        triplet: Sequence[float] | None = None,
        inputs: np.ndarray | None = None,
        outputs: np.ndarray | None = None,
        domains: Sequence[str] = DOMAINS,
    ) -> LayerStatistics:
        facts = facts or make_facts()
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

    return make


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register a strategy the way an installed package does: a module and a .dist-info folder on the import path."""

    def install(package: str, name: str, code: str) -> None:
        module = package.replace("-", "_")
        site = tmp_path / package
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hf_layerprune.strategies]\n{name} = {module}:STRATEGY\n")
        monkeypatch.syspath_prepend(str(site))

    return install
