"""Domains are names: any number of them, with any weights; math and nonmath are the two that come with prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.errors import ArtifactError, StrategyError
from hf_layerprune.strategies.cosine import CosineStrategy, MixedParameters, normalise
from hf_layerprune.strategies.plugins import STRATEGIES
from hf_layerprune.strategies.strategy import NoParameters, needed_domains
from tests.refused_plans import plan_of
from tests.selecting import select

FREE = tuple(range(3, 15))


def z_scores(statistics: LayerStatistics, domain: str) -> dict[int, float]:
    return dict(zip(FREE, normalise(statistics.cosine(domain)[list(FREE)]).tolist(), strict=True))


@pytest.fixture
def three(make_statistics: Any) -> LayerStatistics:
    """Statistics of the two built-in domains and of `charts`, whose two subtasks have random cosines."""
    draw = np.random.default_rng(5)
    statistics = make_statistics(cosine={"math": draw.random(16), "nonmath": draw.random(16)})
    return with_charts(statistics, draw.random((2, 16)))


def with_charts(statistics: LayerStatistics, cosines: np.ndarray) -> LayerStatistics:
    arrays = {name: value for name, value in vars(statistics).items() if isinstance(value, np.ndarray)}
    longer = {name: np.concatenate([value, value[:2]]) for name, value in arrays.items()}
    longer["cosine_sum"][-2:, 0] = cosines * longer["samples"][-2:, None]
    others = {"read a bar": "charts", "read a pie": "charts"}
    return replace(statistics, subtasks=(*statistics.subtasks, *others), other_domains=others, **longer)


def test_a_third_domain_is_ranked_as_the_built_in_ones_are(three: LayerStatistics) -> None:
    assert three.domains == ("math", "nonmath", "charts")
    charts = CosineStrategy("charts", {"charts": 1.0})
    assert charts.needs == {"charts.cosine"} and needed_domains(charts) == ("charts",)
    assert select(charts, three, FREE, 3, NoParameters()).scores == z_scores(three, "charts")


def test_any_domains_with_any_weights(three: LayerStatistics) -> None:
    weights = {"charts": 0.5, "math": 0.3, "nonmath": 0.2}
    strategy = CosineStrategy("all", weights)
    parts = {domain: z_scores(three, domain) for domain in weights}
    expected = {layer: sum(weight * parts[domain][layer] for domain, weight in weights.items()) for layer in FREE}
    assert select(strategy, three, FREE, 3, NoParameters()).scores == pytest.approx(expected)
    assert needed_domains(strategy) == ("math", "nonmath", "charts")


@pytest.mark.parametrize("seed", range(5))
def test_one_domain_is_mixed_at_the_end_of_alpha_bit_for_bit(make_statistics: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    statistics = make_statistics(cosine={"math": draw.random(16), "nonmath": draw.random(16)})
    for alpha, domain in ((0.0, "math"), (1.0, "nonmath")):
        alone = select(STRATEGIES[domain], statistics, FREE, 4, NoParameters())
        mixed = select(STRATEGIES["mixed"], statistics, FREE, 4, MixedParameters(alpha))
        assert {layer: score.hex() for layer, score in alone.scores.items()} == {
            layer: score.hex() for layer, score in z_scores(statistics, domain).items()
        }
        assert (mixed.drop, [mixed.scores[layer].hex() for layer in FREE]) == (alone.drop, [alone.scores[layer].hex() for layer in FREE])


def test_a_single_domain_needs_no_other(make_statistics: Any) -> None:
    statistics = make_statistics(domains=("math",))
    assert STRATEGIES["math"].needs == {"math.cosine"} and STRATEGIES["nonmath"].needs == {"nonmath.cosine"}
    assert select(STRATEGIES["math"], statistics, FREE, 3, NoParameters()).drop == (12, 13, 14)


def test_a_domain_that_was_not_probed_is_named(make_facts: Any, make_statistics: Any, install_plugin: Any) -> None:
    code = "from hf_layerprune.strategies.cosine import CosineStrategy\nSTRATEGY = CosineStrategy('charts', {'charts': 1.0})"
    install_plugin("chart-plugin", "charts", code)
    with pytest.raises(StrategyError, match=r"needs the charts domain, but the statistics hold math and nonmath\. Probe the charts domain"):
        plan_of(make_facts(), "charts", num_layers=2, statistics=make_statistics())


def test_a_plan_by_a_third_domain(make_facts: Any, three: LayerStatistics, install_plugin: Any) -> None:
    code = "from hf_layerprune.strategies.cosine import CosineStrategy\nSTRATEGY = CosineStrategy('charts2', {'charts': 1.0})"
    install_plugin("chart-plugin-two", "charts2", code)
    plan = plan_of(make_facts(), "charts2", num_layers=3, statistics=three)
    assert set(plan.drop) == set(sorted(FREE, key=three.cosine("charts").__getitem__)[-3:])


def test_other_domains_survive_the_file_and_a_merge(three: LayerStatistics, make_statistics: Any, tmp_path: Path) -> None:
    three.save(tmp_path / "three.safetensors")
    loaded = LayerStatistics.load(tmp_path / "three.safetensors")
    assert (loaded.other_domains, loaded.domains, loaded.fingerprint) == (three.other_domains, three.domains, three.fingerprint)
    assert three.merge(loaded).samples.tolist() == (2 * three.samples).tolist()
    with pytest.raises(ArtifactError, match="different models or probe sets"):
        three.merge(replace(three, other_domains={"read a bar": "charts", "read a pie": "pies"}))
    assert b'"domains"' not in make_statistics().content.partition(b"cosine_sum")[0]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"read a bar": "charts"}, "the subtask 'read a pie', which has no domain"),
        ({"read a bar": "charts", "read a pie": "charts", "read a map": "maps"}, "'read a map' a domain, but it is built in or was not"),
    ],
)
def test_domains_that_do_not_fit_the_subtasks(three: LayerStatistics, others: dict[str, str], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        replace(three, other_domains=others)


def test_a_domain_counts_once_all_its_subtasks_were_probed(three: LayerStatistics) -> None:
    samples = three.samples.copy()
    samples[-1] = 0
    assert replace(three, samples=samples).domains == ("math", "nonmath")
