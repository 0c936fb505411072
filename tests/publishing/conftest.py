from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.push import Pushed
from hf_layerprune.publishing.records import card_facts
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import REPO, TOKEN, emptied, pruned_folder, push

ROOT = Path(__file__).parents[2]


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_cards() -> ModuleType:
    """examples/write_cards.py."""
    return _example("write_cards")


@pytest.fixture(scope="session")
def look() -> ModuleType:
    """examples/look_at_cards.py."""
    return _example("look_at_cards")


@pytest.fixture
def records(write_cards: ModuleType, tmp_path: Path) -> Callable[[str], Path]:
    """A function that puts the records of a card of cards/ into a folder of the test's own."""
    return lambda name: write_cards.assemble(name, tmp_path)


@pytest.fixture(scope="session")
def facts(write_cards: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    """Of a model that has every record: pruned, healed, evaluated, with a control."""
    place = tmp_path_factory.mktemp("facts")
    return card_facts(write_cards.assemble("mini-mixed-13L-interlace", place))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruned_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(account_hub: LoopbackHub) -> LoopbackHub:
    """A Hub that holds nothing yet and was asked for nothing."""
    return emptied(account_hub)


@pytest.fixture
def pushed(hub: LoopbackHub, folder: Path) -> Callable[..., Pushed]:
    return lambda **options: push(folder, REPO, **{"token": TOKEN, "say": lambda line: None, **options})
