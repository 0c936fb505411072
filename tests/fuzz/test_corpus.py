"""What the fuzzer found worth keeping: every input is replayed, and breaks no promise of `targets.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import CORPUS, unpacked
from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(tmp_path: Path, name: str) -> None:
    inputs = unpacked(name)
    assert len(inputs) > 20 and CORPUS.stat().st_size < 300_000
    found = [TARGETS[name](data, tmp_path) for _, data in inputs]
    assert 0 < found.count("accepted") < len(found) and len(set(found)) > 15  # it gets behind the first check


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_good(tmp_path: Path, name: str) -> None:
    assert [TARGETS[name](data, tmp_path) for data in seeds(name, tmp_path / "seeds")] == ["accepted"] * (3 if name == "header" else 2)
