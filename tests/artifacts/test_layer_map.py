"""The layer map shows every layer once, with the right sign and bar, within 80 columns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_layerprune.artifacts.plan import Budget, PruningPlan, layer_map, removal_lines


@pytest.fixture
def plan(plan: PruningPlan) -> PruningPlan:
    return replace(plan, tune=(), freeze=(), relaxed=False, strict_drop=(), original_layers=None)


def test_one_column_a_layer(plan: PruningPlan) -> None:
    """Five layers, 0 and 4 protected, 3 removed; of the free scores 0.25, -1.5 and 0.3 the first is in the middle: bar 4 of 0 to 7."""
    assert layer_map(plan) == [
        " layer     0  1  2  3  4",
        " score     ·  ▅  ▁  █  ·",
        "           ◆  ■  ■  ✕  ◆",
        "          ✕ removed   ■ kept   ◆ protected   taller: more redundant",
    ]


def test_ascii_and_rows_of_ones_own(plan: PruningPlan) -> None:
    """Bars go by rank: 1.0 is the second of three, however far 7.0 is."""
    lines = layer_map(plan, {"math": [9.0, 0.0, 1.0, 7.0, 9.0]}, ascii_only=True)
    assert lines[1:3] == [" math      .  1  5  8  .", "           #  o  o  x  #"]
    assert "".join(lines).isascii()


@pytest.mark.parametrize("layers", [5, 22, 23, 36, 94])
def test_within_80_columns_and_every_layer_once(plan: PruningPlan, layers: int) -> None:
    keep = tuple(layer for layer in range(layers) if layer != 3)
    deep = replace(plan, keep=keep, scores=(0.5,) * layers, protected=(0,))
    lines = layer_map(deep)
    assert max(map(len, lines)) <= 80
    shown = [int(word) for line in lines if line.startswith(" layer") for word in line.split()[1:]]
    assert shown == list(range(layers))
    assert sum(line.count("✕") for line in lines[:-1]) == 1


def test_what_would_go_next(plan: PruningPlan) -> None:
    """Layer 3 scores highest of the free ones, layer 1 follows; a plan that is not the top of its scores has no next."""
    assert removal_lines(plan) == ["removed 1 of 5 layers: 3 (next would be 1)"]
    by_hand = replace(plan, drop=(2,), keep=(0, 1, 3, 4))
    assert removal_lines(by_hand) == ["removed 1 of 5 layers: 2"]


def test_relaxed_plans_and_lineage_are_said(plan: PruningPlan) -> None:
    two = replace(
        plan, drop=(1, 3), keep=(0, 2, 4), budget=Budget(None, "count", 2), relaxed=True, strict_drop=(3,), original_layers=(0, 2, 3, 7, 9)
    )
    assert layer_map(two)[-1] == "          ✕ removed (relaxed)   ■ kept   ◆ protected   taller: more redundant"
    assert layer_map(two, ascii_only=True)[-1].startswith("          x removed (relaxed)   ")
    assert removal_lines(two) == [
        "removed 2 of 5 layers (relaxed): 1, 3 (next would be 2)",
        "relaxed mixed's own spacing rule reaches 1 of 2 layers; the removed ones are only not adjacent",
        "lineage the layers left are 0, 3, 9 of the first ancestor",
    ]
    assert str(two).splitlines()[-2:] == removal_lines(two)[1:]


def test_a_plan_that_kept_the_rule_is_not_called_relaxed(plan: PruningPlan) -> None:
    assert "relaxed" not in str(plan)
