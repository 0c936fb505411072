"""Which layers every method drops, keeps, tunes and freezes of mini at three budgets, from the recorded statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
from pins.commands import Pinned, run

METHODS = (
    *("--method mixed", "--method mixed --set alpha=0.3", "--method math", "--method nonmath"),
    *("--method cka", "--method cka --set activations=input", "--method interlace", "--method interlace --budget-of all --protect none"),
    *("--method interlace-pooled", "--method interlace-pooled --set activations=output"),
    *("--method random", "--method random --set seed=7"),
)
BUDGETS = ("10%", "25%", "40%")
PINNED = ("budget", "parameters", "protected", "forced", "drop", "keep", "tune", "freeze", "relaxed", "strict_drop")


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("method", METHODS)
def test_the_layers_of(statistics: Path, tmp_path: Path, pinned: Pinned, method: str, budget: str) -> None:
    options = f"{method} --budget {budget}"
    done = run(tmp_path, "plan", statistics, *options.split(), "-o", "plan.json", "--json")
    assert done.code == 0, done.err
    pinned(options, {key: done.json["plan"][key] for key in PINNED})


def test_every_method_is_pinned(tmp_path: Path) -> None:
    rows = run(tmp_path, "strategies", "--json").json["strategies"]
    assert {row["name"] for row in rows if row["package"] == "hf-layerprune"} <= {method.split()[1] for method in METHODS}


def test_by_hand(tmp_path: Path, pinned: Pinned) -> None:
    for layers in ("4,9", "3-5,9", "0,5 --force", "1 --protect first,last"):
        done = run(tmp_path, "plan", "mini", "--layers", *layers.split(), "-o", "plan.json", "--overwrite", "--json")
        assert done.code == 0, done.err
        pinned(f"--layers {layers}", {key: done.json["plan"][key] for key in PINNED})
