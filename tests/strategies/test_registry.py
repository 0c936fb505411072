"""Strategies by name: ours, those of other packages, and the names that are neither."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import hf_layerprune
from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.plugins import STRATEGIES, find_strategy, known_strategies, package_of
from hf_layerprune.strategies.strategy import Strategy, needed_domains, unknown_needs
from tests.selecting import select

ROOT = Path(hf_layerprune.__file__).parent.parent
OURS = ("cka", "interlace", "interlace-pooled", "math", "mixed", "nonmath", "random")

GOOD = """
from hf_layerprune.strategies.strategy import Selection
from hf_layerprune.strategies.strategy import NoParameters

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
    assert tuple(sorted(STRATEGIES)) == OURS
    for name, strategy in STRATEGIES.items():
        assert isinstance(strategy, Strategy)
        assert strategy.name == name and find_strategy(name) is strategy and package_of(name) == "hf-layerprune"
        assert strategy.paper and strategy.score_meaning and not unknown_needs(strategy)


@pytest.mark.parametrize(
    ("name", "domains"),
    [("math", ("math",)), ("nonmath", ("nonmath",)), ("random", ()), *((name, ("math", "nonmath")) for name in (*OURS[:3], "mixed"))],
)
def test_the_domains_that_a_strategy_needs(name: str, domains: tuple[str, ...]) -> None:
    assert needed_domains(STRATEGIES[name]) == domains


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("miced", "no strategy 'miced'. Did you mean 'mixed'? Known: "),
        ("interlaced", "no strategy 'interlaced'. Did you mean 'interlace'? Known: "),
        ("Random", "no strategy 'Random'. Did you mean 'random'? Known: "),
        ("q", "no strategy 'q'. Known: "),
        ("", "no strategy ''. Known: "),
        ("a\nb", "no strategy 'a\\nb'. Known: "),
    ],
)
def test_an_unknown_name_gets_its_neighbour(name: str, message: str) -> None:
    for find in (find_strategy, package_of):
        with pytest.raises(UsageError) as caught:
            find(name)
        assert str(caught.value) == f"{message}{', '.join(known_strategies())}."
    assert {*OURS} <= {*known_strategies()}


def test_a_strategy_of_another_package_is_loaded_only_when_asked_for(install_plugin: Callable[..., None]) -> None:
    install_plugin("lazy-plugin", "shallowest", GOOD.format(name="shallowest"))
    assert "shallowest" in known_strategies() and package_of("shallowest") == "lazy-plugin"
    assert "lazy_plugin" not in sys.modules
    assert select(find_strategy("shallowest"), None, (3, 4, 5), 2, None).drop == (3, 4)
    assert "lazy_plugin" in sys.modules


def test_a_name_that_two_packages_claim_is_no_name(install_plugin: Callable[..., None]) -> None:
    install_plugin("one-plugin", "twice", GOOD.format(name="twice"))
    install_plugin("other-plugin", "twice", GOOD.format(name="twice"))
    with pytest.raises(StrategyError) as caught:
        find_strategy("twice")
    assert str(caught.value) == "two strategies are named 'twice', of the packages one-plugin and other-plugin. Uninstall all but one."


def test_nobody_can_replace_one_of_ours(install_plugin: Callable[..., None]) -> None:
    install_plugin("cuckoo", "mixed", GOOD.format(name="mixed"))
    with pytest.raises(StrategyError, match="two strategies are named 'mixed', of the packages hf-layerprune and cuckoo"):
        find_strategy("mixed")
    assert find_strategy("math") is STRATEGIES["math"]


WHO = "strategy 'bad' of package 'broken-plugin'"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", f"{WHO} cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'. Repair"),
        ("raise RuntimeError('two\\nlines')", f"{WHO} cannot be loaded: RuntimeError: two lines. Repair"),
        ("x = 1", f"{WHO} cannot be loaded: AttributeError: module 'broken_plugin' has no attribute 'STRATEGY'. Repair"),
        ("STRATEGY = 3", f"{WHO} is no strategy: got int, expected name, paper, score_meaning, needs, parameters and select. Repair"),
        (GOOD.format(name="bad") + "STRATEGY = Shallowest", f"{WHO} is no strategy: Shallowest is a class, expected an instance. Repair"),
        (GOOD.format(name="other"), f"{WHO} is no strategy: it calls itself 'other'. Repair"),
        (GOOD.format(name="bad") + "Shallowest.parameters = dict", f"{WHO} is no strategy: its parameters are no dataclass. Repair"),
        (
            GOOD.format(name="bad") + "Shallowest.needs = frozenset({'math.entropy'})",
            f"{WHO} is no strategy: its needs name nothing that there is: frozenset({{'math.entropy'}}). Repair",
        ),
        (
            GOOD.format(name="bad") + "Shallowest.needs = 'math.cosine'",
            f"{WHO} is no strategy: its needs name nothing that there is: 'math.cosine'. Repair",
        ),
        (
            GOOD.format(name="bad") + "import dataclasses\n@dataclasses.dataclass\nclass P:\n  a: 'list' = None\nShallowest.parameters = P",
            f"{WHO} cannot be loaded: StrategyError: parameter 'a' of strategy 'bad' is declared <class 'list'>",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_its_package(
    install_plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    install_plugin("broken-plugin", "bad", code)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(StrategyError) as caught:
        find_strategy("bad")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert package_of("mixed") == "hf-layerprune"  # a broken neighbour breaks nothing else


@pytest.mark.parametrize("name", [name for name in OURS if name != "random"])
def test_a_direct_call_without_statistics_says_so(name: str) -> None:
    with pytest.raises(StrategyError, match="needs statistics, but got none"):
        select(STRATEGIES[name], None, (1, 2), 1, STRATEGIES[name].parameters())


def build_here() -> list[str]:
    """The option that lets pip build offline, where the installed setuptools can build without the wheel package."""
    if importlib.util.find_spec("setuptools") and int(version("setuptools").split(".")[0]) >= 77:
        return ["--no-build-isolation"]
    return []


@pytest.fixture(scope="session")
def example_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip really installed examples/strategy_plugin."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(ROOT / "examples" / "strategy_plugin", folder / "source")  # setuptools builds within the sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *build_here()]
    result = subprocess.run([*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder / "site"


def run_with(site: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=site, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_plugin_installs_and_plans(example_site: Path) -> None:
    printed = run_with(
        example_site,
        """
import json, sys
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.strategies.plugins import find_strategy, known_strategies, package_of
from tests.refused_plans import plan_of

assert "deepest" in known_strategies() and "layerprune_deepest" not in sys.modules
facts = ModelFacts(SourceRef("mini", None, "0" * 64), "qwen3_vl", 16, 128, 3)
plan = plan_of(facts, "deepest", budget="25%", parameters={"spare": "2"})
print(json.dumps([find_strategy("deepest").name, package_of("deepest"), plan.strategy, plan.drop,
                  dict(plan.parameters), plan.scores[12], plan.scores[13], "torch" in sys.modules, "transformers" in sys.modules]))
""",
    )
    # 25 % of 14 middle layers are 3; free are 3-14, of which 13 and 14 are spared.
    assert json.loads(printed) == ["deepest", "layerprune-deepest", "deepest", [10, 11, 12], {"spare": 2}, 12.0, None, False, False]


def test_an_error_of_the_example_plugin_names_it(example_site: Path) -> None:
    printed = run_with(
        example_site,
        """
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import StrategyError
from tests.refused_plans import plan_of

try:
    plan_of(ModelFacts(SourceRef("mini", None, "0" * 64), "qwen3_vl", 16, 128, 3), "deepest", num_layers=5, parameters={"spare": 9})
except StrategyError as error:
    print(error)
""",
    )
    assert printed.startswith("strategy 'deepest' of package 'layerprune-deepest': 12 layers are free and 9 spared")
