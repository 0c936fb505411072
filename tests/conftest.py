"""What holds for every test."""

from __future__ import annotations

import os
import signal

import pytest

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
