"""The two methods on mean-pooled activations, against the formulas as the paper prints them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.plugins import STRATEGIES, parse_parameters
from hf_layerprune.strategies.pooled import CkaParameters, InterlacePooledParameters, adjacent_cka
from tests.plans import facts_of, select, statistics_of

CKA, POOLED = STRATEGIES["cka"], STRATEGIES["interlace-pooled"]


def cka_in_feature_space(x: np.ndarray, y: np.ndarray) -> float:
    """||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F) with d x d products of centred features, as printed in section 4.3."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return float(norm(x.T @ y, "fro") ** 2 / (norm(x.T @ x, "fro") * norm(y.T @ y, "fro")))


def test_cka_from_gram_matrices_is_cka_in_feature_space() -> None:
    features = np.random.default_rng(1).normal(size=(6, 9, 40)) + 3
    expected = [cka_in_feature_space(features[layer], features[layer + 1]) for layer in range(5)]
    assert adjacent_cka(features.swapaxes(0, 1)) == pytest.approx(expected)


def test_cka_ignores_rotation_scale_and_offset() -> None:
    draw = np.random.default_rng(2)
    first, rotation = draw.normal(size=(9, 5)), np.linalg.qr(draw.normal(size=(5, 5)))[0]
    assert adjacent_cka(np.stack([first, 3 * first @ rotation + 7], axis=1)) == pytest.approx([1.0])


@pytest.mark.parametrize("side", ["output", "input"])
def test_cka_scores_the_later_layer_of_each_pair(side: str) -> None:
    pools = np.random.default_rng(3).normal(size=(9, 6, 4))
    statistics = statistics_of(facts_of(layers=6), **{f"{side}s": pools})
    selection = select(CKA, statistics, (1, 2, 3, 4), 2, parse_parameters(CKA, {"activations": side}))
    expected = {layer: cka_in_feature_space(pools[:, layer - 1], pools[:, layer]) for layer in range(1, 6)}
    assert selection.scores == pytest.approx(expected)
    assert set(selection.drop) == set(sorted((1, 2, 3, 4), key=expected.__getitem__)[-2:])


def test_cka_can_never_remove_layer_0() -> None:
    statistics = statistics_of(facts_of(layers=6))
    assert select(CKA, statistics, tuple(range(6)), 5).drop == (1, 2, 3, 4, 5)
    with pytest.raises(StrategyError, match="asks for 2 layers, but only 1 free layers have a score"):
        select(CKA, statistics, (0, 1), 2)


def test_cka_of_activations_that_never_vary_is_refused() -> None:
    pools = np.random.default_rng(4).normal(size=(9, 6, 4))
    pools[:, 3] = 1.0
    with pytest.raises(StrategyError, match="layer 3 has no similarity to its neighbour: its pooled activations are the same"):
        select(CKA, statistics_of(facts_of(layers=6), outputs=pools), (1, 2, 3, 4), 1)


def rotated(similarity: list[float], length: float = 2.0) -> np.ndarray:
    """Vectors in a plane, [layer, 4], each at the given cosine to the next."""
    angles = np.cumsum([0.0, *map(math.acos, similarity)])
    return length * np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=1)


SIMILARITY = [0.2, 0.6, 0.9, 0.7, 0.9, 0.8, 0.3, 0.4, 0.1]  # S of layers 0 to 8 of ten; the last has none


@pytest.mark.parametrize("side", ["input", "output"])
def test_pooled_interlace_by_hand(side: str) -> None:
    pools = np.stack([rotated(SIMILARITY, length=task + 1) for task in range(9)])
    statistics = statistics_of(facts_of(layers=10), **{f"{side}s": pools})
    parameters, free = parse_parameters(POOLED, {"activations": side}), tuple(range(1, 9))
    selection = select(POOLED, statistics, free, 2, parameters)
    assert selection.scores == pytest.approx(dict(enumerate(SIMILARITY)))
    # R of the triplets from layer 1 on: 0.75, 0.8, 0.8, 0.85, 0.55, 0.35. First 4-5-6, where layer 4 is the more redundant,
    # then 1-2-3, where layer 2 is; layer 6 and layer 3 are the anchors.
    assert (selection.drop, selection.tune, selection.freeze, selection.relaxed) == ((2, 4), (), (), False)


def test_a_triplet_scores_the_mean_of_its_first_two_layers() -> None:
    # (0.3 + 0.99) / 2 is more than (0.6 + 0.6) / 2, though the first, the product and the smaller of the two are less.
    pools = np.stack([rotated([0.1, 0.3, 0.99, 0.1, 0.6, 0.6, 0.1])] * 9)
    statistics = statistics_of(facts_of(layers=8), inputs=pools)
    assert select(POOLED, statistics, tuple(range(1, 7)), 1).drop == (2,)


def test_each_task_weighs_the_same_in_pooled_interlace() -> None:
    pools = np.stack([rotated([0.9 if task < 3 else 0.3] * 3) for task in range(9)])
    selection = select(POOLED, statistics_of(facts_of(layers=4), inputs=pools), (0, 1, 2), 1)
    assert selection.scores == pytest.approx(dict.fromkeys(range(3), (3 * 0.9 + 6 * 0.3) / 9))


def test_pooled_interlace_relaxes_as_interlace_does() -> None:
    pools = np.stack([rotated(SIMILARITY)] * 9)
    selection = select(POOLED, statistics_of(facts_of(layers=10), inputs=pools), tuple(range(1, 10)), 4)
    # The triplets 4-5-6, 1-2-3 and 7-8-9 give three. Of four layers apart 1, 3, 5, 7 score 2.5, and 2, 4, 6, 8 only 2.2.
    assert (selection.relaxed, selection.strict_drop) == (True, (2, 4, 7))
    assert selection.drop == (1, 3, 5, 7)


def test_a_zero_vector_has_no_direction() -> None:
    pools = np.stack([rotated(SIMILARITY)] * 9)
    pools[4, 2] = 0.0
    with pytest.raises(StrategyError, match="layer 2 has no similarity to its neighbour: its pooled activations are zero for a task"):
        select(POOLED, statistics_of(facts_of(layers=10), inputs=pools), (1, 2, 3), 1)


def test_the_paper_leaves_the_side_open_and_the_defaults_differ() -> None:
    assert (CkaParameters().activations, InterlacePooledParameters().activations) == ("output", "input")
