"""Which layers every method drops, keeps, tunes and freezes of mini at three budgets, from the recorded statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.pins.commands import Pinned, run

METHODS = (
    *("--method mixed", "--method mixed --set alpha=0.3", "--method math", "--method nonmath"),
    *("--method cka", "--method cka --set activations=input", "--method interlace", "--method interlace --budget-of all --protect none"),
    *("--method interlace-pooled", "--method interlace-pooled --set activations=output"),
    *("--method random", "--method random --set seed=7"),
)
OF_EQUALS = METHODS[:4] + METHODS[6:8]  # by cosines alone, which are equal where their sums are, on every machine
COSINES = ("cosine_sum", "cosine_square_sum", "token_cosine_sum", "triplet_cosine_sum")
BUDGETS = ("10%", "25%", "40%")
PINNED = ("budget", "parameters", "protected", "forced", "drop", "keep", "tune", "freeze", "relaxed", "strict_drop")


def planned(here: Path, origin: object, options: str) -> dict[str, object]:
    """What is pinned of a plan."""
    done = run(here, "plan", origin, *options.split(), "-o", "plan.json", "--overwrite", "--json")
    assert done.code == 0, done.err
    return {key: done.json["plan"][key] for key in PINNED}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("method", METHODS)
def test_the_layers_of(statistics: Path, tmp_path: Path, pinned: Pinned, method: str, budget: str) -> None:
    options = f"{method} --budget {budget}"
    pinned(options, planned(tmp_path, statistics, options))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("method", OF_EQUALS)
def test_of_equal_layers(statistics: Path, tmp_path: Path, pinned: Pinned, method: str, budget: str) -> None:
    """Every layer has the cosines of the seventh, every triplet those of the seventh."""
    with safe_open(statistics, "np") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # not a dict
    for name in COSINES:
        arrays[name][...] = arrays[name][..., 6:7].copy()
    save_file(arrays, tmp_path / "equal.safetensors", metadata)
    options = f"{method} --budget {budget}"
    pinned(f"of equal layers: {options}", planned(tmp_path, tmp_path / "equal.safetensors", options))


def test_every_method_is_pinned(tmp_path: Path) -> None:
    rows = run(tmp_path, "strategies", "--json").json["strategies"]
    assert {row["name"] for row in rows if row["package"] == "hf-layerprune"} <= {method.split()[1] for method in METHODS}


def test_by_hand(tmp_path: Path, pinned: Pinned) -> None:
    for layers in ("4,9", "3-5,9", "0,5 --force", "1 --protect first,last"):
        pinned(f"--layers {layers}", planned(tmp_path, "mini", f"--layers {layers}"))
