"""The report's numbers, worked out another way, and its file."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from hf_layerprune.artifacts.eval_report import Environment, EvalReport, EvaluatedModel, ModelSettings, TaskRecord, TaskSettings
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.scores import Row, Tally, holm, mcnemar, sign_flip, standard_error
from hf_layerprune.errors import ArtifactError


def report(*rows: Row, against: bool = True) -> EvalReport:
    tasks = (TaskRecord("t", "cc", 4, 0, "t.jsonl", "a file", None, 0, 4),)
    asked = TaskSettings(None, False, None, None, 0)
    return EvalReport("key", evaluated("short"), evaluated("mini") if against else None, asked, tasks, rows)


def evaluated(name: str) -> EvaluatedModel:
    settings = ModelSettings("dd", "ee", "auto", "auto", None, None, "greedy", "2", "5")
    environment = Environment("cpu", "float32", "sdpa", 1, 8, "3", "Linux", "0", "2", "5")
    return EvaluatedModel(SourceRef(name, None, f"{name} aa"), settings, environment, "ff")


def compared(task: str, subtask: str | None, samples: int, both: int, gained: int, lost: int, bad: int = 0) -> Row:
    return Row(task, subtask, bad, Tally(samples, both + gained, 0), Tally(samples, both + lost, 1), gained, lost)


@pytest.mark.parametrize("seed", range(5))
def test_errors_are_those_of_the_single_samples(seed: int) -> None:
    """Against numpy over arrays of zeros and ones."""
    rng = np.random.default_rng(seed)
    model, other = rng.random((2, 37)) < 0.6
    gained, lost = int((model & ~other).sum()), int((other & ~model).sum())
    assert Tally(37, int(model.sum()), 0).standard_error == pytest.approx(model.std() / math.sqrt(37))
    difference = model.astype(float) - other
    assert standard_error(gained - lost, gained + lost, 37) == pytest.approx(difference.std() / math.sqrt(37))
    row = Row("t", "s", 0, Tally(37, int(model.sum()), 0), Tally(37, int(other.sum()), 0), gained, lost)
    assert row.difference == pytest.approx(100 * difference.mean())
    assert row.relative == pytest.approx(100 * (model.mean() / other.mean() - 1))
    assert row.difference_error == pytest.approx(100 * difference.std() / math.sqrt(37))


@pytest.mark.parametrize("samples", [1, 7, 20, 100, 4096])
def test_a_share_of_one_or_none_has_a_bound(samples: int) -> None:
    """Both of Wilson's solve (share - p)^2 = z^2 p (1 - p) / n, by numpy's roots of the polynomial in p."""
    square = 1.959963984540054**2 / samples
    for correct, sign in ((0, "≤"), (samples, "≥")):
        share = correct / samples
        low, high = sorted(100 * np.roots([1 + square, -2 * share - square, share * share]).real)
        assert Tally(samples, correct, 0).spread == (sign, pytest.approx(low if correct else high))
    assert round(Tally(20, 0, 0).spread[1], 2) == 16.11  # Newcombe (1998), Table I, method 3
    assert Tally(100, 90, 0).spread == ("±", pytest.approx(3.0))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 5), (3, 3), (2, 7), (9, 1), (6, 5)])
def test_mcnemar_counts_the_coins(gained: int, lost: int) -> None:
    """All ways in which so many fair coins can fall."""
    trials = gained + lost
    uneven = sum(abs(2 * sum(coins) - trials) >= abs(gained - lost) for coins in product((0, 1), repeat=trials))
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == float(Fraction(uneven, 2**trials))


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_counted_one_by_one(seed: int) -> None:
    """All ways in which the signs of up to eight differences can fall, in exact fractions."""
    rng = Random(seed)
    for _ in range(5):
        values = [Fraction(rng.randint(-8, 8), 8) for _ in range(rng.randint(1, 8))]
        far = [abs(sum(s * v for s, v in zip(signs, values))) >= abs(sum(values)) for signs in product((-1, 1), repeat=len(values))]
        assert sign_flip([float(value) for value in values]) == pytest.approx(sum(far) / len(far))
    assert sign_flip([]) == sign_flip([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(("gained", "lost"), [(3, 9), (0, 12), (20, 8), (30, 10), (15, 15)])
def test_sign_flips_of_whole_differences_are_mcnemars(gained: int, lost: int) -> None:
    """The same test; where signs are drawn, within five standard errors of 20,000 draws."""
    exact, found = mcnemar(gained, lost), sign_flip([1.0] * gained + [-1.0] * lost + [0.0] * 7)
    slack = 0 if gained + lost <= 12 else 5 * math.sqrt(exact * (1 - exact) / 20_000) + 1e-4
    assert found == pytest.approx(exact, abs=slack + 1e-12)
    assert sign_flip([-1.0] * gained + [1.0] * lost) == pytest.approx(exact, abs=slack + 1e-12)
    assert found == sign_flip([1.0] * gained + [-1.0] * lost)  # the seed is fixed


def test_scores_between_0_and_1(tmp_path: Path) -> None:
    """Against numpy, and read from a file as they were written."""
    rng = np.random.default_rng(3)
    model, other = np.clip(rng.random((2, 40)) * 1.2 - 0.1, 0, 1)
    model[:5] = other[:5]
    difference = model - other
    tallies = [Tally(40, float(side.sum()), 0, float((side**2).sum())) for side in (model, other)]
    signs = int((difference > 0).sum()), int((difference < 0).sum())
    row = Row("t", "a", 0, *tallies, *signs, float((difference**2).sum()), sign_flip(difference.tolist()))
    assert tallies[0].mean == pytest.approx(model.mean()) and tallies[0].standard_error == pytest.approx(model.std() / math.sqrt(40))
    assert row.difference_error == pytest.approx(100 * difference.std() / math.sqrt(40))
    assert row.difference == pytest.approx(100 * difference.mean()) and tallies[0].spread == ("±", tallies[0].error)
    report(row).save(tmp_path / "eval.json")
    assert EvalReport.load(tmp_path / "eval.json") == report(row)
    better = Row("t", "a", 0, Tally(8, 7.5, 0, 7.25), Tally(8, 0.0, 0, 0.0), 8, 0, 7.25, sign_flip([1.0] * 7 + [0.5]))
    assert report(better).verdict(better) == "better, p = 0.008" and better.p == 2 / 2**8


@pytest.mark.parametrize(
    "wrong", [(4, 5.0, 0, 4.0), (4, 2.0, 0, 2.1), (4, 2.0, 0, 0.9), (4, -1.0, 0, 1.0), (4, 2.0, 5, 1.5), (4, 1.5, 0), (-1, 0, 0)]
)
def test_sums_of_no_scores_are_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(ArtifactError, match="invalid score: "):
        Tally(*wrong)


def test_mcnemar_of_many() -> None:
    assert mcnemar(5000, 5000) == 1.0 and mcnemar(0, 5000) == 0.0
    exact = Fraction(2 * sum(math.comb(1200, k) for k in range(541)), 2**1200)
    assert mcnemar(540, 660) == pytest.approx(float(exact)) and mcnemar(499, 500) == 1.0


def test_holm_by_its_definition() -> None:
    """The smallest level at which the step-down procedure rejects each hypothesis, found by trying levels."""
    rng = Random(1)
    for _ in range(20):
        values = [round(rng.random() ** 3, 3) for _ in range(rng.randint(1, 7))]

        def rejected(level: float, values: list[float] = values) -> set[int]:
            found: set[int] = set()
            for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
                if values[index] * (len(values) - rank) > level:
                    break
                found.add(index)
            return found

        for index, corrected in enumerate(holm(values)):
            if corrected < 1:
                assert index in rejected(corrected + 1e-9) and index not in rejected(corrected - 1e-9)
            else:
                assert index not in rejected(1 - 1e-9)
    assert holm([]) == []


def test_the_papers_cell() -> None:
    """Table 2 of the paper, Snapask: 40.47 falls to 24.88, written `24.88 (-15.59, -38.5%)`."""
    row = compared("t", None, 10000, 2000, 488, 2047)
    assert row.cell == "24.88 (-15.59, -38.5%)"
    assert compared("t", None, 200, 100, 3, 0).cell == "51.50 (+1.50, +3.0%)"
    assert compared("t", None, 10, 0, 1, 0).cell == "10.00 (+10.00, n/a)"
    assert Row("t", None, 0, Tally(8, 3, 0)).cell == "37.50"


def test_verdicts_are_corrected() -> None:
    rows = [compared("t", f"s{n}", 100, 50, gained, lost) for n, (gained, lost) in enumerate([(0, 7), (0, 30), (8, 0), (3, 2)])]
    found = report(*rows, compared("t", None, 400, 200, 11, 39))
    assert [round(row.p, 4) for row in rows] == [0.0156, 0.0, 0.0078, 1.0]
    verdicts = [found.verdict(row) for row in found.rows]
    assert verdicts == ["worse, p = 0.031", "worse, p < 0.001", "better, p = 0.023", "no difference found", "worse, p < 0.001"]
    alone = report(rows[0])
    assert alone.verdict(rows[0]) == "worse, p = 0.016"  # a family of one
    assert report(Row("t", "s", 0, Tally(4, 2, 0)), against=False).verdict(Row("t", "s", 0, Tally(4, 2, 0))) == ""


def test_a_task_without_samples_has_no_numbers(tmp_path: Path) -> None:
    empty = report(Row("t", "s", 3, Tally(0, 0, 0)), against=False)
    empty.save(tmp_path / "eval.json")
    assert EvalReport.load(tmp_path / "eval.json") == empty
    assert json.loads((tmp_path / "eval.json").read_text())["scores"]["t"]["subtasks"]["s"]["model"]["mean"] is None


def test_round_trip(tmp_path: Path) -> None:
    whole = report(compared("t", "a", 50, 20, 3, 9, bad=2), compared("t", "b", 50, 30, 0, 0), compared("t", None, 100, 50, 3, 9, bad=2))
    whole.save(tmp_path / "eval.json")
    again = EvalReport.load(tmp_path / "eval.json")
    assert again == whole and again.to_dict() == whole.to_dict()
    assert again.row("t") is again.rows[2] and again.row("t", "a") is again.rows[0]
    with pytest.raises(KeyError):
        again.row("t", "c")


def change(value: dict[str, Any], path: str, new: Any) -> None:
    *folders, last = path.split("/")
    for name in folders:
        value = value[name]
    value[last] = new


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("format", 2),
        ("kind", "bench"),
        ("key", None),
        ("scores/t/subtasks/a/model/correct", 51),
        ("scores/t/subtasks/a/model/correct", 24),
        ("scores/t/subtasks/a/model/mean", 0.99),
        ("scores/t/subtasks/a/model/samples", "50"),
        ("scores/t/subtasks/a/paired/p", 0.0001),
        ("scores/t/subtasks/a/paired/verdict", "better, p < 0.001"),
        ("scores/t/subtasks/a/paired/gained", 4),
        ("scores/t/subtasks/a/unusable", -1),
        ("scores/t/subtasks/a/against", None),
        ("scores/t/whole", 5),
        ("scores", []),
        ("against", None),
        ("model", {"id": 3}),
        ("model/settings/dtype", None),
        ("model/environment/threads", True),
        ("asked/samples", "all"),
        ("tasks", [{"name": "t"}]),
        ("seconds", "long"),
        ("unexpected", 1),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, path: str, new: Any) -> None:
    value = report(compared("t", "a", 50, 20, 3, 9)).to_dict()
    change(value, path, new)
    (tmp_path / "eval.json").write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=r"eval\.json") as caught:
        EvalReport.load(tmp_path / "eval.json")
    assert "\n" not in str(caught.value)
