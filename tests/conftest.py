"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.hub.loopback import LoopbackHub, only_hub, serve
from tests.hub.state import Account

# The files that take longest begin first, so that no core waits for another at the end.
LONGEST = ("test_notebook", "test_killed", "test_card", "test_evaluate", "test_heal", "test_push_journey", "test_true_shape", "test_zero3")


def pytest_configure() -> None:
    """Heed Ctrl-C: a shell starts background jobs with SIGINT ignored, which the processes that tests start and interrupt would inherit.

    Tests run side by side, one on a core: threads that wait for one another, of tests and of the processes that they start, would cost
    many times what they save.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub that huggingface_hub in this process takes for the only one, with an empty cache."""
    with serve() as hub, only_hub(hub, tmp_path_factory.mktemp("cache")):
        yield hub


@pytest.fixture(scope="module")
def account_hub(own_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """The same, where two people have accounts; no token is at hand, and nothing waits or draws figures."""
    from tests.hub.pushing import OTHER, TOKEN

    with pytest.MonkeyPatch.context() as patch:
        own_hub.accounts = {TOKEN: Account("me", orgs=("team",)), OTHER: Account("you")}
        patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
        patch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path_factory.mktemp("home") / "no-token"))
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr("hf_layerprune.publishing.card.draw_figures", lambda facts: {})
        yield own_hub
