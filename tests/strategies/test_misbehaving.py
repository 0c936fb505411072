"""Strategies of other packages that return nonsense or fail: named with their package, and nothing of it reaches a plan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.strategy import NoParameters, Selection
from tests.refused_plans import plan_of, refusal


class Puppet:
    """A strategy that returns, or raises, what it was told to."""

    name = "puppet"
    paper = "ours"
    score_meaning = "none"
    needs = frozenset[str]()
    parameters = NoParameters

    def __init__(self, result: Any) -> None:
        self.result = result

    def select(self, evidence: Any, free: tuple[int, ...], k: int, parameters: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def puppet(install_plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Install the strategy `puppet` of the package `strange-package`, which gives the result it is told."""

    def install(result: Any) -> None:
        install_plugin("strange-package", "puppet", f"from {__name__} import Puppet\nSTRATEGY = Puppet(None)")
        monkeypatch.setitem(sys.modules, "strange_package", type(sys)("strange_package"))
        sys.modules["strange_package"].STRATEGY = Puppet(result)  # type: ignore[attr-defined]

    return install


WHO = "strategy 'puppet' of package 'strange-package'"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([3, 4, 5], "returned list, expected a Selection."),
        (None, "returned NoneType, expected a Selection."),
        (Selection({}, (3, 4)), "drops 2 layers, expected exactly 3."),
        (Selection({}, (3, 4, 5, 6)), "drops 4 layers, expected exactly 3."),
        (Selection({}, (3, 3, 4)), "names layer 3 twice in 'drop'."),
        (Selection({}, (3, 4, 15)), "names layer 15 in 'drop', expected some of 3-14."),
        (Selection({}, (3, 4, 99)), "names layer 99 in 'drop', expected some of 3-14."),
        (Selection({}, (-1, 3, 4)), "names layer -1 in 'drop', expected some of 3-14."),
        (Selection({}, (3, 4, 5.0)), "returned 'drop' that is no sequence of layer numbers."),  # type: ignore[arg-type]
        (Selection({}, 3), "returned 'drop' that is no sequence of layer numbers."),  # type: ignore[arg-type]
        (Selection({3: 0.5, 4: float("nan"), 5: 0.1}, (3, 4, 5)), "gives layer 4 the score nan, expected a finite number."),
        (Selection({3: float("inf")}, (3, 4, 5)), "gives layer 3 the score inf, expected a finite number."),
        (Selection({3: "high"}, (3, 4, 5)), "gives layer 3 the score 'high', expected a finite number."),  # type: ignore[dict-item]
        (Selection({3: 0.5, 4: 0.5}, (3, 4, 5)), "drops layer 5 without a score for it, though it scores 2 others."),
        (Selection({16: 0.5}, (3, 4, 5)), "scores 16, which is no layer; expected 0 to 15."),
        (Selection({"3": 0.5}, (3, 4, 5)), "scores '3', which is no layer; expected 0 to 15."),  # type: ignore[dict-item]
        (Selection([0.5] * 16, (3, 4, 5)), "returned scores that are list, expected a mapping from layers to numbers."),  # type: ignore[arg-type]
        (Selection({}, (3, 4, 5), tune=(3,)), "names layer 3 in 'tune', expected some of 0-2,6-15."),
        (Selection({}, (3, 4, 5), freeze=(16,)), "names layer 16 in 'freeze', expected some of 0-2,6-15."),
        (Selection({}, (3, 4, 5), tune=(6, 7), freeze=(7, 8)), "both tunes and freezes layer 7."),
        (Selection({}, (3, 4, 5), strict_drop=(0,)), "names layer 0 in 'strict_drop', expected some of 3-14."),
        (ZeroDivisionError("division\nby zero"), "failed: ZeroDivisionError: division by zero. Use another method, or report it"),
        (UsageError("alpha is wrong."), ": alpha is wrong."),
        (KeyError(), "failed: KeyError. Use another method, or report it"),
    ],
)
def test_a_strangers_nonsense_is_named_with_its_package(make_facts: Any, puppet: Callable[[Any], None], result: Any, message: str) -> None:
    puppet(result)
    said = refusal(StrategyError, make_facts(), "puppet", budget=0.25)
    assert said.startswith((f"{WHO} {message}", f"{WHO}{message}"))


def test_the_cause_of_a_failure_is_kept(make_facts: Any, puppet: Callable[[Any], None]) -> None:
    cause = ZeroDivisionError()
    puppet(cause)
    with pytest.raises(StrategyError) as caught:
        plan_of(make_facts(), "puppet", budget=0.25)
    assert caught.value.__cause__ is cause


def test_ctrl_c_within_a_strategy_is_no_failure_of_it(make_facts: Any, puppet: Callable[[Any], None]) -> None:
    puppet(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        plan_of(make_facts(), "puppet", budget=0.25)


def test_a_relaxed_selection_of_a_stranger_is_refused_under_strict_too(make_facts: Any, puppet: Callable[[Any], None]) -> None:
    puppet(Selection({}, (3, 4, 5), relaxed=True, strict_drop=(3, 5)))
    assert plan_of(make_facts(), "puppet", budget=0.25).strict_drop == (3, 5)
    assert refusal(StrategyError, make_facts(), "puppet", budget=0.25, strict=True).startswith(
        "strategy 'puppet' reaches 2 of 3 layers by its own spacing rule (3,5)."
    )


def test_numpy_numbers_and_any_order_are_accepted(make_facts: Any, puppet: Callable[[Any], None], tmp_path: Path) -> None:
    puppet(Selection({np.int64(layer): np.float32(0.5) for layer in range(16)}, tuple(np.array([9, 3, 5]))))  # type: ignore[misc]
    plan = plan_of(make_facts(), "puppet", budget=0.25)
    assert plan.drop == (3, 5, 9) and plan.scores == (0.5,) * 16
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_a_failure_of_ours_that_says_what_to_do_is_passed_on(make_facts: Any, make_statistics: Any) -> None:
    pools = np.ones((9, 16, 4))
    message = refusal(StrategyError, make_facts(), "cka", budget=0.25, statistics=make_statistics(outputs=pools))
    assert message.startswith("layer 0 has no similarity to its neighbour")
