"""From a request to a plan: what the plan says, statistics against models, DeepStack, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import ArtifactError, StrategyError, UsageError
from hf_layerprune.strategies.planning import deepstack_warning
from hf_layerprune.strategies.plugins import STRATEGIES
from tests.plans import facts_of, plan_of, refusal, statistics_of

RISING = [layer / 100 for layer in range(16)]


def test_a_plan_says_everything_about_the_decision() -> None:
    facts = facts_of(original=tuple(range(0, 32, 2)))
    statistics = statistics_of(facts, cosine={"math": RISING, "nonmath": RISING[::-1]})
    plan = plan_of(facts, "mixed", budget="25%", statistics=statistics, parameters={"alpha": "0.2"})
    assert (plan.source, plan.family, plan.original_layers) == (facts.source, "qwen3_vl", facts.original_layers)
    assert plan.budget == Budget("25%", "middle", 3)
    assert (plan.strategy, plan.parameters) == ("mixed", {"alpha": 0.2})
    assert (plan.protected, plan.forced) == ((0, 1, 2, 15), ())
    assert plan.drop == (12, 13, 14) and plan.keep == (*range(12), 15)  # with 0.8 on math, which rises
    assert [layer for layer, score in enumerate(plan.scores) if score is None] == [0, 1, 2, 15]
    assert plan.score_meaning == STRATEGIES["mixed"].score_meaning
    assert plan.statistics == statistics.fingerprint


@pytest.mark.parametrize("name", ["interlace", "interlace-pooled"])
def test_a_relaxed_plan_is_recorded_or_under_strict_refused(name: str) -> None:
    ask = {"num_layers": 5, "statistics": statistics_of()}  # 12 free layers hold at most four triplets
    plan = plan_of(facts_of(), name, **ask)
    assert plan.relaxed and len(plan.drop) == 5 and 0 < len(plan.strict_drop) < 5
    message = refusal(StrategyError, facts_of(), name, strict=True, **ask)
    assert message.startswith(f"strategy '{name}' reaches {len(plan.strict_drop)} of 5 layers by its own spacing rule (")
    assert "leave out --strict" in message


def test_strict_does_not_touch_a_plan_that_keeps_the_rule() -> None:
    plan = plan_of(facts_of(), "interlace", num_layers=2, strict=True, statistics=statistics_of())
    # All scores are equal: the deepest triplets 12-13-14 and 9-10-11, and in each the deeper of the first two.
    assert (plan.drop, plan.tune, plan.relaxed, plan.strict_drop) == ((10, 13), (9, 12), False, ())
    assert set(plan.freeze) == set(plan.keep) - set(plan.tune)


@pytest.mark.parametrize("strict", [False, True])
def test_what_no_spacing_reaches_is_refused_either_way(strict: bool) -> None:
    message = refusal(StrategyError, facts_of(), "interlace", num_layers=7, strict=strict, statistics=statistics_of())
    assert message.startswith("the budget asks for 7 layers, but at most 6 of the free layers can go with no two of them adjacent.")


def test_layers_by_hand_need_no_method_and_no_statistics(tmp_path: Path) -> None:
    plan = plan_of(facts_of(), layers="3-5,9")
    assert (plan.strategy, plan.drop, plan.parameters, plan.statistics) == ("manual", (3, 4, 5, 9), {}, None)
    assert plan.budget == Budget(None, "layers", 4) and plan.scores == (None,) * 16
    assert plan_of(facts_of(), layers=[9, 3, 5, 4]) == plan
    forced = plan_of(facts_of(), layers="0,5,15", force=True)
    assert (forced.drop, forced.forced, forced.protected) == ((0, 5, 15), (0, 15), (0, 1, 2, 15))
    forced.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == forced


# Statistics


def test_a_method_that_needs_statistics_says_so() -> None:
    assert "needs statistics (math and nonmath): probe first" in refusal(StrategyError, facts_of(), "mixed")


@pytest.mark.parametrize(
    ("key", "value"), [("family", "llava"), ("layers", 17), ("hidden_size", 8), ("deepstack_layers", 2), ("source", "other")]
)
def test_statistics_of_another_model_are_refused_with_the_difference(key: str, value: Any) -> None:
    ours, probed = facts_of(), facts_of(name=value) if key == "source" else facts_of()
    facts = ours if key == "source" else replace(ours, **{key: value})
    found = "fingerprint 'other0000000', but mini has 'mini00000000'" if key == "source" else f"{key} {getattr(ours, key)!r}, but"
    message = refusal(ArtifactError, facts, "math", num_layers=1, statistics=statistics_of(probed))
    assert message.startswith(f"the statistics are of another model or another revision: {found}") and "Probe mini." in message
    assert plan_of(facts, "random", statistics=statistics_of(probed)).statistics is None  # it reads none


@pytest.mark.parametrize("name", ["math", "mixed", "cka", "interlace", "interlace-pooled"])
def test_a_missing_domain_is_named(name: str) -> None:
    statistics = statistics_of(domains=("nonmath",))
    assert refusal(StrategyError, facts_of(), name, budget=0.25, statistics=statistics) == (
        f"strategy '{name}' needs the math domain, but the statistics hold nonmath. Probe the math domain too, or use another method."
    )
    assert plan_of(facts_of(), "nonmath", budget=0.25, statistics=statistics).drop == (12, 13, 14)


# DeepStack

FEW = "DeepStack levels: llama.cpp needs at least one layer more than levels."


@pytest.mark.parametrize(
    ("layers", "lost", "now"),
    [
        ("3-5", None, None),
        ("1", "layer 1 of the 3", "after layers 0,2-3 instead."),
        ("0,2", "layers 0,2 of the 3", "after layers 1,3-4 instead."),
        ("1-13", "layers 1-3 of the 4", f"after layers 0,14-15 instead, and 1 of them nowhere. 3 layers stay for 4 {FEW}"),
    ],
)
def test_a_moved_deepstack_injection_is_said(layers: str, lost: str | None, now: str | None) -> None:
    facts = facts_of(deepstack=4 if layers == "1-13" else 3)
    warning = lost and f"the plan drops {lost} that DeepStack features are added after; they will be added {now}"
    assert deepstack_warning(plan_of(facts, layers=layers, protect="none"), facts) == warning


@pytest.mark.parametrize(("layers", "warning"), [("4-15", f"4 layers stay for 4 {FEW}"), ("5-15", None)])
def test_too_few_layers_for_llama_cpp(layers: str, warning: str | None) -> None:
    facts = facts_of(deepstack=4)
    assert deepstack_warning(plan_of(facts, layers=layers, protect="none"), facts) == warning


@settings(max_examples=60)
@given(data=st.data())
def test_any_strategy_with_any_budget_gives_exactly_that_many_or_says_no(data: st.DataObject) -> None:
    layers = data.draw(st.integers(4, 20))
    facts = replace(facts_of(layers, deepstack=data.draw(st.integers(0, 3))), source=SourceRef("any", None, "a" * 64))
    draw = np.random.default_rng(data.draw(st.integers(0, 9)))
    random = {"cosine": {"math": draw.random(layers), "nonmath": draw.random(layers)}, "token": draw.random(layers)}
    statistics = statistics_of(facts, triplet=draw.random(layers - 2), **random)
    name, k = data.draw(st.sampled_from(sorted(STRATEGIES))), data.draw(st.integers(1, layers - 1))
    protect = data.draw(st.sampled_from(["default", "first,last", "none"]))
    try:
        plan = plan_of(facts, name, num_layers=k, protect=protect, statistics=statistics)
    except StrategyError as error:
        assert "the budget asks for" in str(error)
    except UsageError as error:
        assert layers - k < 3 and "at least 3 must stay" in str(error)
    else:
        assert layers - k >= 3 and len(plan.drop) == k and not set(plan.drop) & set(plan.protected)
