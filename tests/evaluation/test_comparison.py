"""Rows from answers: scores between 0 and 1, and samples that one of two models cannot be evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.artifacts.eval_report import TaskRecord
from hf_layerprune.artifacts.scores import sign_flip
from hf_layerprune.evaluation import comparison
from hf_layerprune.evaluation.answers import Answer
from hf_layerprune.evaluation.comparison import rows, skipped
from hf_layerprune.evaluation.samples import Sample

UNUSABLE = {8: ("b", "line 9: no field 'answer'"), 9: ("c", "line 10: not valid JSON")}


@dataclass(frozen=True)
class Task:
    """Eight samples of two subtasks, and two records that are none."""

    scorer: str
    name: str = "t"
    digest: str = "d"

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(Sample(n, f"line {n}", "ab"[n % 2], "?", ("1",), (), self.scorer, 4) for n in range(8))

    @property
    def unusable(self) -> Mapping[int, tuple[str, str]]:
        return UNUSABLE

    def record(self) -> TaskRecord:
        return TaskRecord(self.name, self.digest, 8, 2, self.name, "here", None, 0, 10)

    def image(self, index: int) -> Image.Image:
        raise NotImplementedError


def answers(texts: str, unusable: int | None = None) -> dict[tuple[str, int], Answer]:
    return {
        ("t", index): Answer("t", index, text, 1, text == "0", "line 3: no image" if index == unusable else "")
        for index, text in enumerate(texts.split())
    }


def test_binary_rows_are_counted_again() -> None:
    model, other = answers("1 0 1 1 0 1 1 0", unusable=2), answers("1 1 1 0 0 0 1 1")
    found = {row.subtask: row for row in rows([Task("exact")], model, other)}
    assert list(found) == ["a", "b", None]
    counts = {
        name: (row.model.samples, row.model.total, row.other and row.other.total, row.gained, row.lost) for name, row in found.items()
    }
    assert counts == {"a": (3, 2, 2, 0, 0), "b": (4, 2, 2, 2, 2), None: (7, 4, 4, 2, 2)}
    assert {name: row.unusable for name, row in found.items()} == {"a": 1, "b": 1, None: 3}
    assert {name: row.model.truncated for name, row in found.items()} == {"a": 1, "b": 2, None: 3} and found[None].binary
    assert skipped([Task("exact")], model, other) == ("line 9: no field 'answer'", "line 10: not valid JSON", "line 3: no image")


def test_scores_between_0_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scorer that takes the answer itself for its score."""
    monkeypatch.setattr(comparison, "SCORERS", {"share": lambda text, accepted, choices: float(text)})
    one, two = "0.5 1 0.25 0.75 1 0 0.5 1", "0.5 0.5 0 0.5 1 0.25 0.25 0.75"
    (*_, whole) = rows([Task("share")], answers(one), answers(two))
    model, other = (np.array(texts.split(), float) for texts in (one, two))
    assert not whole.binary and whole.model.mean == model.mean() and whole.other and whole.other.mean == other.mean()
    assert whole.model.standard_error == pytest.approx(model.std() / 8**0.5)
    assert whole.difference_error == pytest.approx(100 * (model - other).std() / 8**0.5)
    assert (whole.gained, whole.lost) == (5, 1) and whole.p == sign_flip((model - other).tolist())
    alone = rows([Task("share")], answers("0 1 1 1 0 0 1 1"))[-1]
    assert alone.binary and alone.model.total == 5 and alone.other is None
