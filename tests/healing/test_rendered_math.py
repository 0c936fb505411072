"""Problems as pages: all of the text is on them, within the margins, the same each time; evaluation items are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerprune.data.conversations import conversation
from hf_layerprune.data.records import LeftOut, Record, UnusableRecord
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError
from hf_layerprune.healing.rendered_math import LEADING, MARGIN, WIDTH, RenderedMath, evaluation_items, page, text_key, wrapped

PROBLEM = "Let $x^2 + \\frac{1}{2} = 5$. Find all $x \\in \\mathbb{R}$.\n\nGive the sum of their squares."


def record(problem: Any = PROBLEM, **fields: Any) -> Record:
    return Record("n.jsonl, line 1", {"problem": problem, "solution": " It is $9$. ", "source": "x", **fields}, None)


def test_a_page_is_black_on_white_within_its_margins() -> None:
    pixels = np.asarray(page(PROBLEM * 5))
    assert pixels.shape[1:] == (WIDTH, 3) and pixels.min() == 0 and pixels.max() == 255
    inked = np.argwhere((pixels < 128).any(2))
    (top, left), (bottom, right) = inked.min(0), inked.max(0)
    assert top >= MARGIN and left >= MARGIN - 2 and right < WIDTH - MARGIN + 2 and bottom < len(pixels) - MARGIN // 2
    assert np.array_equal(pixels, np.asarray(page(PROBLEM * 5))) and not np.array_equal(pixels[:40], np.asarray(page("y"))[:40])


def test_as_high_as_its_lines() -> None:
    assert page("a").height == 2 * MARGIN + LEADING and page("a\nb\n\nc").height == 2 * MARGIN + 3 * LEADING


@pytest.mark.parametrize("text", [PROBLEM.replace("\n", " ") * 3, "x" * 300, "short " + "y" * 200 + " end", "W" * 100 + " " + "i" * 500])
def test_nothing_is_lost_in_wrapping(text: str) -> None:
    lines = list(wrapped(text))
    assert "".join("".join(lines).split()) == "".join(text.split()) and len(lines) > 1 and all(lines)


def test_a_problem_in_text_alone_becomes_a_question_about_an_image() -> None:
    for problem in (record(), record(image=None, images=[], messages=[])):
        found = conversation(RenderedMath().rendered(problem))
        assert [turn.role for turn in found.turns] == ["user", "assistant"] and found.turns[1].text == "It is $9$."
        assert np.array_equal(found.images[0].load(), page(PROBLEM))
    for other in (record(image="a.png"), record(images=["a.png"]), record(problem=None), record(solution=3)):
        assert RenderedMath().rendered(other) is other


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("a\n" * 61, "61 lines, more than the 60"),
        ("x = 中", "the letter '中' cannot be rendered"),
        ("\x07", "cannot be rendered"),
        ("🙂", "cannot"),
    ],
)
def test_what_cannot_be_rendered(problem: str, said: str) -> None:
    with pytest.raises(UnusableRecord, match=f"n.jsonl, line 1: .*{said}"):
        RenderedMath().rendered(record(problem))


def test_evaluation_items_are_left_out_however_they_are_spaced(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    items = [
        {"question": "LET   x^2+\\frac{1}{2}=5; find all x \\in \\mathbb R,\ngive the sum of their squares", "answer": "9"},
        {"problem": "other"},
    ]
    path.write_text("\n".join(map(json.dumps, items)))
    excluded = evaluation_items([open_table(DataSpec(str(path)))])
    rendering = RenderedMath(exclude=excluded)
    with pytest.raises(LeftOut, match=r"n\.jsonl, line 1: an item of an evaluation"):
        rendering.rendered(record())
    assert len(excluded) == 2 and "image" in rendering.rendered(record("Let $y^2 = 5$.")).fields
    assert rendering.digest != RenderedMath().digest
    for line, said in (('{"a": 1}', "line 1: no field problem or question"), ("nonsense", "line 1: not valid JSON; items of")):
        path.write_text(line)
        with pytest.raises(DataError, match=said):
            evaluation_items([open_table(DataSpec(str(path)))])
    assert text_key("Ａ b-C") == text_key("abc") != text_key("abd")
