"""Strategies by name, ours and those of other packages; what they return is checked, and an error names the package to blame."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_layerprune
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.plugins import STRATEGIES, find_strategy, known_strategies, package_of, parse_parameters
from hf_layerprune.strategies.strategy import NoParameters, Selection, Strategy, needed_domains, unknown_needs
from tests.plans import facts_of, plan_of, refusal, select, statistics_of

ROOT = Path(hf_layerprune.__file__).parent.parent
OURS = ("cka", "interlace", "interlace-pooled", "math", "mixed", "nonmath", "random")
Install = Callable[..., None]

GOOD = """
from hf_layerprune.strategies.strategy import NoParameters, Selection

class Shallowest:
    name = {name!r}
    paper = "ours"
    score_meaning = "none"
    needs = frozenset()
    parameters = NoParameters

    def select(self, evidence, free, k, parameters):
        return Selection({{}}, free[:k])

STRATEGY = Shallowest()
"""


def test_ours_are_seven_and_known_by_their_names() -> None:
    assert tuple(sorted(STRATEGIES)) == OURS and {*OURS} <= {*known_strategies()}
    for name, strategy in STRATEGIES.items():
        assert isinstance(strategy, Strategy)
        assert strategy.name == name and find_strategy(name) is strategy and package_of(name) == "hf-layerprune"
        assert strategy.paper and strategy.score_meaning and not unknown_needs(strategy)
        assert needed_domains(strategy) == {"math": ("math",), "nonmath": ("nonmath",), "random": ()}.get(name, ("math", "nonmath"))
        kind: Any = strategy.parameters
        assert parse_parameters(strategy, {}) == kind() and all(item.metadata["help"] for item in fields(kind))


def test_an_unknown_name_gets_its_neighbour() -> None:
    for name, nearest in {"miced": "mixed", "Random": "random", "q": "", "": "", "a\nb": ""}.items():
        hint = f"Did you mean {nearest!r}? " * bool(nearest)
        for find in (find_strategy, package_of):
            with pytest.raises(UsageError) as caught:
                find(name)
            assert str(caught.value) == f"no strategy {name!r}. {hint}Known: {', '.join(known_strategies())}."


def test_a_strategy_of_another_package_is_loaded_only_when_asked_for(install_plugin: Install) -> None:
    install_plugin("lazy-plugin", "shallowest", GOOD.format(name="shallowest"))
    assert "shallowest" in known_strategies() and package_of("shallowest") == "lazy-plugin"
    assert "lazy_plugin" not in sys.modules
    assert select(find_strategy("shallowest"), None, (3, 4, 5), 2).drop == (3, 4)
    assert "lazy_plugin" in sys.modules


def test_a_name_that_two_packages_claim_is_no_name(install_plugin: Install) -> None:
    for package, name in (("one-plugin", "twice"), ("other-plugin", "twice"), ("cuckoo", "mixed")):
        install_plugin(package, name, GOOD.format(name=name))
    with pytest.raises(StrategyError, match="two strategies are named 'twice', of the packages one-plugin and other-plugin"):
        find_strategy("twice")
    with pytest.raises(StrategyError, match="two strategies are named 'mixed', of the packages hf-layerprune and cuckoo"):
        find_strategy("mixed")
    assert find_strategy("math") is STRATEGIES["math"]


NO_NEED = "is no strategy: unknown needs: "
STRANGE_TYPE = "import dataclasses\n@dataclasses.dataclass\nclass P:\n  a: 'list' = None\nShallowest.parameters = P"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('two\\nlines')", "cannot be loaded: RuntimeError: two lines"),
        ("x = 1", "cannot be loaded: AttributeError: module 'broken_plugin' has no attribute 'STRATEGY'"),
        ("STRATEGY = 3", "is no strategy: got int, expected name, paper, score_meaning, needs, parameters and select"),
        (GOOD.format(name="bad") + "STRATEGY = Shallowest", "is no strategy: Shallowest is a class, expected an instance"),
        (GOOD.format(name="other"), "is no strategy: it calls itself 'other'"),
        (GOOD.format(name="bad") + "Shallowest.parameters = dict", "is no strategy: its parameters are not a dataclass"),
        (
            GOOD.format(name="bad") + "Shallowest.needs = frozenset({'math.entropy'})",
            NO_NEED,
        ),
        (GOOD.format(name="bad") + "Shallowest.needs = 'math.cosine'", NO_NEED),
        (
            GOOD.format(name="bad") + STRANGE_TYPE,
            "cannot be loaded: StrategyError: parameter 'a' of strategy 'bad' is declared",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_its_package(
    install_plugin: Install, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    install_plugin("broken-plugin", "bad", code)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(StrategyError) as caught:
        find_strategy("bad")
    assert str(caught.value).startswith(f"strategy 'bad' of package 'broken-plugin' {message}") and "\n" not in str(caught.value)
    assert package_of("mixed") == "hf-layerprune"  # a broken neighbour breaks nothing else


# What it returns


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
def puppet(install_plugin: Install, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Install the strategy `puppet` of the package `strange-package`, which gives the result it is told."""

    def install(result: Any) -> None:
        install_plugin("strange-package", "puppet", f"from {__name__} import Puppet\nSTRATEGY = Puppet(None)")
        monkeypatch.setitem(sys.modules, "strange_package", type(sys)("strange_package"))
        sys.modules["strange_package"].STRATEGY = Puppet(result)  # type: ignore[attr-defined]

    return install


DROP: Any = (3, 4, 5)
NONSENSE: list[tuple[Any, str]] = [
    *((result, f"returned {type(result).__name__}, expected a Selection") for result in ([3, 4, 5], None)),
    *((Selection({}, drop), f"it drops {len(drop)}") for drop in ((3, 4), (3, 4, 5, 6))),
    (Selection({}, (3, 3, 4)), "it drops 2"),
    (Selection({}, (3, 4, 15)), "drops layer 15, expected some of 3-14"),
    *((Selection({}, (3, 4, layer)), f"names layer {layer}, expected 0 to 15") for layer in (99, -1)),
    *((Selection({}, drop), "returned an invalid 'drop', expected a sequence of layer numbers") for drop in ((3, 4, 5.0), 3)),  # type: ignore[arg-type]
    *((Selection({3: 0.5, 4: score, 5: 0.1}, DROP), "scores must be a finite number") for score in (float("nan"), float("inf"))),
    *((Selection(scores, DROP), "invalid scores, expected a mapping from layers to numbers") for scores in ({3: "high"}, [0.5] * 16)),  # type: ignore[arg-type]
    (Selection({3: 0.5, 4: 0.5}, DROP), "drops layer 5 without a score for it, though it scores 2 others"),
    *((Selection({layer: 0.5}, DROP), f"names layer {layer!r}, expected 0 to 15") for layer in (16, "3")),  # type: ignore[dict-item]
    (Selection({}, DROP, tune=(3,)), "tunes or freezes layer 3, which it drops"),
    (Selection({}, DROP, freeze=(16,)), "names layer 16, expected 0 to 15"),
    (Selection({}, DROP, tune=(6, 7), freeze=(7, 8)), "both tunes and freezes layer 7"),
    (ZeroDivisionError("division\nby zero"), "failed: ZeroDivisionError: division by zero. Use another method, or report it"),
    (UsageError("alpha is wrong."), ": alpha is wrong."),
    (KeyError(), "failed: KeyError. Use another method, or report it"),
]


@pytest.mark.parametrize(("result", "message"), NONSENSE)
def test_nonsense_is_named_with_its_package(puppet: Callable[[Any], None], result: Any, message: str) -> None:
    puppet(result)
    said = refusal(StrategyError, facts_of(), "puppet", budget=0.25)
    assert said.startswith("strategy 'puppet' of package 'strange-package'") and message in said


def test_the_cause_of_a_failure_is_kept_and_ctrl_c_is_none(puppet: Callable[[Any], None]) -> None:
    cause = ZeroDivisionError()
    puppet(cause)
    with pytest.raises(StrategyError) as caught:
        plan_of(facts_of(), "puppet", budget=0.25)
    assert caught.value.__cause__ is cause
    sys.modules["strange_package"].STRATEGY.result = KeyboardInterrupt()  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        plan_of(facts_of(), "puppet", budget=0.25)


def test_a_relaxed_selection_of_another_package_is_refused_under_strict_too(puppet: Callable[[Any], None]) -> None:
    puppet(Selection({}, DROP, relaxed=True, strict_drop=(3, 5)))
    assert plan_of(facts_of(), "puppet", budget=0.25).strict_drop == (3, 5)
    said = refusal(StrategyError, facts_of(), "puppet", budget=0.25, strict=True)
    assert said.startswith("strategy 'puppet' reaches 2 of 3 layers by its own spacing rule (3,5).")


def test_numpy_numbers_and_any_order_are_accepted(puppet: Callable[[Any], None], tmp_path: Path) -> None:
    puppet(Selection({np.int64(layer): np.float32(0.5) for layer in range(16)}, tuple(np.array([9, 3, 5]))))  # type: ignore[misc]
    plan = plan_of(facts_of(), "puppet", budget=0.25)
    assert plan.drop == (3, 5, 9) and plan.scores == (0.5,) * 16
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_a_failure_of_ours_that_says_what_to_do_is_passed_on() -> None:
    statistics = statistics_of(outputs=np.ones((9, 16, 4)))
    message = refusal(StrategyError, facts_of(), "cka", budget=0.25, statistics=statistics)
    assert message.startswith("layer 0 has no similarity to its neighbour")


# The example


def test_the_example_plugin_installs_plans_and_is_named(tmp_path: Path) -> None:
    """Really installed by pip; offline, where the installed setuptools can build without the wheel package."""
    source = shutil.copytree(ROOT / "examples" / "strategy_plugin", tmp_path / "source")  # setuptools builds within the sources
    offline = importlib.util.find_spec("setuptools") and int(version("setuptools").split(".")[0]) >= 77
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation"] * bool(offline) + ["--target", str(tmp_path / "site"), str(source)]
    subprocess.run(command, check=True)
    code = """
import json, sys
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import StrategyError
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import make_plan
from hf_layerprune.strategies.plugins import find_strategy, known_strategies, package_of
from hf_layerprune.strategies.planning import resolve

assert "deepest" in known_strategies() and "layerprune_deepest" not in sys.modules
facts = ModelFacts(SourceRef("mini", None, "0" * 64), "qwen3_vl", 16, 128, 3)
plan = make_plan(facts, resolve(facts, PlanOptions("deepest", "25%", parameters={"spare": "2"})))
print(json.dumps([find_strategy("deepest").name, package_of("deepest"), plan.strategy, plan.drop,
                  dict(plan.parameters), plan.scores[12], plan.scores[13], "torch" in sys.modules, "transformers" in sys.modules]))
try:
    make_plan(facts, resolve(facts, PlanOptions("deepest", parameters={"spare": 9}, num_layers=5)))
except StrategyError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    printed, error = done.stdout.splitlines()
    # 25 % of 14 middle layers are 3; free are 3-14, of which 13 and 14 are spared.
    assert json.loads(printed) == ["deepest", "layerprune-deepest", "deepest", [10, 11, 12], {"spare": 2}, 12.0, None, False, False]
    assert error.startswith("strategy 'deepest' of package 'layerprune-deepest': 12 layers are free and 9 spared")
