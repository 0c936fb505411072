"""From options to a plan: budgets against protection, statistics against models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.errors import ArtifactError, StrategyError, UsageError
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import deepstack_warning
from hf_layerprune.strategies.plugins import STRATEGIES
from hf_layerprune.strategies.request import resolve, strategy_of
from hf_layerprune.strategies.strategy import needed_domains
from tests.refused_plans import plan_of, refusal

RISING = [layer / 100 for layer in range(16)]


def test_a_plan_says_everything_about_the_decision(make_facts: Any, make_statistics: Any) -> None:
    facts = make_facts(original=tuple(range(0, 32, 2)))
    statistics = make_statistics(facts, cosine={"math": RISING, "nonmath": RISING[::-1]})
    plan = plan_of(facts, "mixed", budget="25%", statistics=statistics, parameters={"alpha": "0.2"})
    assert (plan.source, plan.family, plan.original_layers) == (facts.source, "qwen3_vl", facts.original_layers)
    assert plan.budget == Budget("25%", "middle", 3)
    assert (plan.strategy, plan.parameters) == ("mixed", {"alpha": 0.2})
    assert (plan.protected, plan.forced) == ((0, 1, 2, 15), ())
    assert plan.drop == (12, 13, 14) and plan.keep == (*range(12), 15)  # with 0.8 on math, which rises
    assert [layer for layer, score in enumerate(plan.scores) if score is None] == [0, 1, 2, 15]
    assert plan.score_meaning == STRATEGIES["mixed"].score_meaning
    assert plan.statistics == statistics.fingerprint


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("protect", ["default", "first,last", "none"])
def test_every_strategy_gives_the_same_plan_twice_that_survives_its_file(
    make_facts: Any, make_statistics: Any, tmp_path: Path, name: str, protect: str
) -> None:
    draw = np.random.default_rng(7)
    facts = make_facts()
    statistics = make_statistics(
        facts, cosine={"math": draw.random(16), "nonmath": draw.random(16)}, token=draw.random(16), triplet=draw.random(14)
    )
    first, second = (plan_of(facts, name, budget=0.25, protect=protect, statistics=statistics) for _ in range(2))
    assert first == second and len(first.drop) == 3
    assert (first.statistics is not None) == bool(needed_domains(STRATEGIES[name])) == (name != "random")
    first.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == first


def test_the_budget_does_not_depend_on_the_protection(make_facts: Any) -> None:
    for protect in ("default", "first,last", "none"):
        assert len(plan_of(make_facts(28), "random", budget=0.4, protect=protect).drop) == 10


@pytest.mark.parametrize("name", ["math", "random", "cka"])
def test_a_budget_beyond_the_free_layers_is_refused(make_facts: Any, make_statistics: Any, name: str) -> None:
    assert refusal(StrategyError, make_facts(), name, num_layers=13, statistics=make_statistics()) == (
        "the budget asks for 13 layers, but only 12 are free (protected: 0-2,15). "
        "Lower the budget, or protect fewer layers with --protect first,last or --protect none."
    )
    assert len(plan_of(make_facts(), name, num_layers=12, statistics=make_statistics()).drop) == 12


@pytest.mark.parametrize("name", ["interlace", "interlace-pooled"])
def test_a_relaxed_plan_is_recorded_or_under_strict_refused(make_facts: Any, make_statistics: Any, name: str) -> None:
    ask = {"num_layers": 5, "statistics": make_statistics()}  # 12 free layers hold at most four triplets
    plan = plan_of(make_facts(), name, **ask)
    assert plan.relaxed and len(plan.drop) == 5 and 0 < len(plan.strict_drop) < 5
    message = refusal(StrategyError, make_facts(), name, strict=True, **ask)
    assert message.startswith(f"strategy '{name}' reaches {len(plan.strict_drop)} of 5 layers by its own spacing rule (")
    assert "leave out --strict" in message


def test_strict_does_not_touch_a_plan_that_keeps_the_rule(make_facts: Any, make_statistics: Any) -> None:
    plan = plan_of(make_facts(), "interlace", num_layers=2, strict=True, statistics=make_statistics())
    # All scores are equal: the deepest triplets 12-13-14 and 9-10-11, and in each the deeper of the first two.
    assert (plan.drop, plan.tune, plan.relaxed, plan.strict_drop) == ((10, 13), (9, 12), False, ())
    assert set(plan.freeze) == set(plan.keep) - set(plan.tune)


@pytest.mark.parametrize("strict", [False, True])
def test_what_no_spacing_reaches_is_refused_either_way(make_facts: Any, make_statistics: Any, strict: bool) -> None:
    message = refusal(StrategyError, make_facts(), "interlace", num_layers=7, strict=strict, statistics=make_statistics())
    assert message.startswith("the budget asks for 7 layers, but at most 6 of the free layers can go with no two of them adjacent.")


def test_a_quarter_goes_where_nothing_else_is_asked(make_facts: Any) -> None:
    assert plan_of(make_facts(28), "random").budget == Budget("0.25", "middle", 6)


def test_a_request_can_be_checked_before_anything_is_measured(make_facts: Any) -> None:
    request = resolve(make_facts(), PlanOptions(num_layers=12, strict=True))
    assert (request.method, request.budget, request.strict) == ("mixed", Budget(None, "count", 12), True)
    assert (request.protected, request.free, request.domains) == ((0, 1, 2, 15), tuple(range(3, 15)), ("math", "nonmath"))
    request = resolve(make_facts(), PlanOptions(layers="5,3-4"))
    assert (request.method, request.budget, request.chosen) == ("manual", Budget(None, "layers", 3), (3, 4, 5))
    assert request.domains == resolve(make_facts(), PlanOptions("random")).domains == ()
    assert resolve(make_facts(), PlanOptions("math")).domains == ("math",)
    for kind, options in (
        (UsageError, {"parameters": {"alpha": 2}}),
        (StrategyError, {"num_layers": 13}),
        (StrategyError, {"layers": "0"}),
    ):
        with pytest.raises(kind):
            resolve(make_facts(), PlanOptions(**options))


# Layers by hand


def test_layers_by_hand_need_no_method_and_no_statistics(make_facts: Any) -> None:
    plan = plan_of(make_facts(), layers="3-5,9")
    assert (plan.strategy, plan.drop, plan.parameters, plan.statistics) == ("manual", (3, 4, 5, 9), {}, None)
    assert plan.budget == Budget(None, "layers", 4) and plan.scores == (None,) * 16
    assert plan_of(make_facts(), layers=[9, 3, 5, 4]) == plan


@pytest.mark.parametrize(
    ("layers", "protect", "message"),
    [
        ("0,5", "default", "layer 0 is protected (first). Free layers: 3-14. To remove it anyway, add --force."),
        ("2", "default", "layer 2 is protected (DeepStack). Free layers: 3-14. To remove it anyway, add --force."),
        ("15", "first,last", "layer 15 is protected (last). Free layers: 1-14. To remove it anyway, add --force."),
        ("7", "first,7", "layer 7 is protected (by --protect). Free layers: 1-6,8-15. To remove it anyway, add --force."),
        (
            (0, 15),
            "default",
            "layer 0 is protected (first) and layer 15 is protected (last). Free layers: 3-14. To remove them anyway, add --force.",
        ),
    ],
)
def test_protected_layers_need_force(make_facts: Any, layers: Any, protect: str, message: str) -> None:
    assert refusal(StrategyError, make_facts(), layers=layers, protect=protect) == message


def test_forced_layers_stand_in_the_plan(make_facts: Any, tmp_path: Path) -> None:
    plan = plan_of(make_facts(), layers="0,5,15", force=True)
    assert (plan.drop, plan.forced, plan.protected) == ((0, 5, 15), (0, 15), (0, 1, 2, 15))
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert plan_of(make_facts(), layers="5", force=True).forced == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "16"}, "--layers: 16 is no layer of this model. Expected numbers from 0 to 15 and ranges of them, such as 3-5,9."),
        ({"layers": [3, 3]}, "--layers: layer 3 is named twice. Name every layer once."),
        ({"layers": ()}, "--layers: 0 of 16 layers are named; at least one must go and one must stay."),
        (
            {"layers": "5", "budget": 0.25},
            "only one of --budget, --num-layers, --layers says how many layers go, got --budget and --layers.",
        ),
        (
            {"layers": "5", "parameters": {"alpha": 0.5}},
            "parameter 'alpha' belongs to a method, but --layers uses none. Leave one of them out.",
        ),
        (
            {"budget": 0.25, "force": True},
            "--force removes protected layers that are named by --layers: name them, or protect fewer with --protect.",
        ),
        ({"layers": "5", "method": "math"}, "--layers names the layers by hand and --method ranks them: leave one of them out."),
        ({"budget": 0.25, "parameters": {"alfa": 1}}, "strategy 'mixed' has no parameter 'alfa'. Did you mean 'alpha'? Known: alpha."),
    ],
)
def test_options_that_cannot_be_honoured(make_facts: Any, make_statistics: Any, options: dict[str, Any], message: str) -> None:
    assert refusal(UsageError, make_facts(), statistics=make_statistics(), **options) == message


def test_an_unknown_method_is_a_usage_error(make_facts: Any) -> None:
    assert refusal(UsageError, make_facts(), "miced", budget=0.25).startswith("no strategy 'miced'. Did you mean 'mixed'? Known: cka,")
    with pytest.raises(UsageError, match="no strategy 'miced'"):
        strategy_of(PlanOptions("miced"))


# Statistics


def test_a_method_that_needs_statistics_says_so(make_facts: Any) -> None:
    assert refusal(StrategyError, make_facts(), "mixed", budget=0.25) == (
        "strategy 'mixed' needs statistics (math and nonmath): probe first, or use a method that needs none."
    )


def test_statistics_of_another_model_are_refused_with_the_difference(make_facts: Any, make_statistics: Any) -> None:
    other = make_statistics(make_facts(name="other"))
    message = refusal(ArtifactError, make_facts(), "math", budget=0.25, statistics=other)
    assert message == (
        "the statistics are of another model or another revision: fingerprint 'other0000000', but mini has 'mini00000000'. Probe mini."
    )
    assert plan_of(make_facts(), "random", budget=0.25, statistics=other).statistics is None  # it reads none


@pytest.mark.parametrize(("key", "value"), [("family", "llava"), ("layers", 17), ("hidden_size", 8), ("deepstack_layers", 2)])
def test_statistics_of_another_shape_are_refused(make_facts: Any, make_statistics: Any, key: str, value: Any) -> None:
    expected = getattr(make_facts(), key)
    facts = replace(make_facts(), **{key: value})
    message = refusal(ArtifactError, facts, "math", num_layers=1, statistics=make_statistics())
    assert message == f"the statistics are of another model or another revision: {key} {expected!r}, but mini has {value!r}. Probe mini."


@pytest.mark.parametrize("name", ["math", "mixed", "cka", "interlace", "interlace-pooled"])
def test_a_missing_domain_is_named(make_facts: Any, make_statistics: Any, name: str) -> None:
    statistics = make_statistics(domains=("nonmath",))
    assert refusal(StrategyError, make_facts(), name, budget=0.25, statistics=statistics) == (
        f"strategy '{name}' needs the math domain, but the statistics hold nonmath. Probe the math domain too, or use another method."
    )
    assert plan_of(make_facts(), "nonmath", budget=0.25, statistics=statistics).drop == (12, 13, 14)


# DeepStack


@pytest.mark.parametrize(
    ("layers", "warning"),
    [
        ("3-5", None),
        (
            "1",
            "the plan drops layer 1 of the 3 that DeepStack features are added after; they will be added after layers 0,2-3 instead.",
        ),
        (
            "0,2",
            "the plan drops layers 0,2 of the 3 that DeepStack features are added after; they will be added after layers 1,3-4 instead.",
        ),
        (
            "1-13",
            "the plan drops layers 1-3 of the 4 that DeepStack features are added after; "
            "they will be added after layers 0,14-15 instead, and 1 of them nowhere.",
        ),
    ],
)
def test_a_moved_deepstack_injection_is_said(make_facts: Any, layers: str, warning: str | None) -> None:
    facts = make_facts(deepstack=4 if layers == "1-13" else 3)
    assert deepstack_warning(plan_of(facts, layers=layers, protect="none"), facts) == warning


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_strategy_with_any_budget_gives_exactly_that_many_or_says_no(
    make_facts: Any, make_statistics: Any, data: st.DataObject
) -> None:
    layers = data.draw(st.integers(4, 20))
    facts = replace(make_facts(layers, deepstack=data.draw(st.integers(0, 3))), source=SourceRef("any", None, "a" * 64))
    draw = np.random.default_rng(data.draw(st.integers(0, 9)))
    random = {"cosine": {"math": draw.random(layers), "nonmath": draw.random(layers)}, "token": draw.random(layers)}
    statistics = make_statistics(facts, triplet=draw.random(layers - 2), **random)
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


@pytest.mark.parametrize("asked", [{"method": "random", "budget": "0.9", "budget_of": "all"}, {"layers": "1-6", "force": True}])
def test_three_layers_must_stay(make_facts: Any, asked: dict[str, Any]) -> None:
    """A shallower model would be no source for anything: refused before it is measured."""
    message = refusal(UsageError, make_facts(layers=8), protect="none", **asked)
    assert re.fullmatch(r"removing [67] of 8 layers leaves [12]; at least 3 must stay. Remove fewer.", message)
