"""The scorers, as tables: what counts as right and what does not."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.errors import UsageError
from hf_layerprune.evaluation.multiple_choice import chosen
from hf_layerprune.evaluation.normalise import normalised
from hf_layerprune.evaluation.scoring import SCORERS, choice, exact, final_answer, find_scorer, relaxed


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" Two  red\n\tSquares. ", "two red squares"),
        ("12.", "12"),
        ("1.5", "1.5"),
        ("-3", "-3"),
        ("No...", "no.."),
        ("\uff11\uff12", "12"),  # full-width digits
        ("\u0663\u0664", "34"),  # Arabic-Indic digits
        ("10\u00b2", "10\u00b2"),  # a superscript is no digit, nor is a subscript or a number in a circle
        ("CO\u2082", "co\u2082"),
        ("\u33a1", "m\u00b2"),  # the square metre in one letter
        ("5\u2469", "5\u2469"),
        ("1\u00bd", "1 1/2"),
        ("\u22125", "-5"),  # minus
        ("(\u20135)", "(-5)"),  # en dash
        ("\u20145", "-5"),  # em dash, a sign before a digit alone
        ("a \u2014 b", "a \u2014 b"),
        ("e\u0301", "\u00e9"),
        ("12\u3002", "12"),
        ("STRASSE", normalised("straße")),
        (".", ""),
        ("", ""),
    ],
)
def test_normalised(text: str, plain: str) -> None:
    assert normalised(text) == plain == normalised(plain if not plain.endswith(".") else text)


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        ("Yes.", ["yes"], True),
        ("a  red circle", ["A red circle."], True),
        ("3+4=7", ["3+4=7"], True),
        ("3+4=7", ["3-4=7"], False),
        ("-5", ["5"], False),
        ("1.5", ["15"], False),
        ("12 apples", ["12"], False),
        ("two", ["2", "Two"], True),
        ("", ["x"], False),
        ("<think>is it 4? no</think>\n\n5", ["5"], True),
        ("5</think>6", ["5"], False),
        ("10\u00b2", ["102"], False),
        ("x\u00b2", ["x2"], False),
        ("\u22123", ["-3"], True),
        ("\u22123", ["3"], False),
    ],
)
def test_exact(text: str, accepted: list[str], right: bool) -> None:
    assert exact(text, accepted) is right


@pytest.mark.parametrize(
    ("text", "target", "right"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("94.9", "100", False),
        ("-105", "-100", True),
        ("100", "-100", False),
        ("5%", "0.05", True),
        ("5%", "5", False),
        ("0", "0", True),
        ("0.0", "0", False),  # a target of 0 is compared as text
        ("0.01", "0", False),
        ("1,000", "1000", False),  # ChartQA's definition knows no thousands
        ("1e2", "100", True),
        ("nan", "100", False),
        ("inf", "inf", True),  # as texts
        ("-inf", "inf", False),
        ("about 100", "100", False),
        ("100.", "100", True),
        ("Blue", "blue", True),
        ("blue", "red", False),
        ("100", "one hundred", False),
        ("\u2212105", "-100", True),
        ("\u2212100", "100", False),
        ("10\u00b2", "102", False),
        ("\uff15\uff05", "0.05", True),
        ("1_00", "100", False),  # a number to Python alone
    ],
)
def test_relaxed(text: str, target: str, right: bool) -> None:
    assert relaxed(text, [target]) is right
    assert relaxed(text, ["something else", target]) is right


def test_five_percent_is_the_limit() -> None:
    for target in range(1, 400):
        for given in range(0, 800, 7):
            assert relaxed(str(given), [str(target)]) is (abs(Fraction(given, target) - 1) <= Fraction(5, 100)), (given, target)


PAIRS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "scorer_pairs.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_table_of_tricky_pairs(scorer: str) -> None:
    """Verdicts that a person gave, and where lmms-eval 0.7.3 gives another one, in the field `lmms_eval`.

    Its functions are `exact_match` with case and punctuation ignored, `chartqa.utils.relaxed_correctness` and
    `mcq_extract.extract_mcq_answer`, each after its `strip_reasoning_tags`. They differ in these kinds:

    - exact: without decimal points, thousands, signs, % and markup, 1.5 is 15 and +3 is 3 there; the Unicode forms of digits, minus
      signs, letters and spaces differ there, and so do runs of white space.
    - relaxed: a Unicode minus or digit makes a text of a number there, a full stop or spaces make two texts of one, 1_000 is a
      number, and 16.8 is more than 5 % from 16, in floating point.
    - choice: a choice's text is not read there, nor a lower-case letter; letters are found within words (a capital in BB, the article
      A, the pronoun I); the last of several named letters is taken, and so is a negated one.
    """
    rows = [row for row in PAIRS if row["scorer"] == scorer]
    wrong = [row for row in rows if SCORERS[scorer](row["answer"], row["expected"], row.get("choices", ())) is not row["correct"]]
    assert wrong == [] and len(rows) > 90 and min(Counter(row["correct"] for row in rows).values()) > 40
    assert all(row.get("lmms_eval", not row["correct"]) is not row["correct"] for row in rows)


CATS = ["a cat", "a dog", "a cat and a dog", "nothing"]


@pytest.mark.parametrize(
    ("text", "choices", "found"),
    [
        ("B", CATS, 1),
        ("b", CATS, 1),
        ("(B)", CATS, 1),
        ("B.", CATS, 1),
        ("B)", CATS, 1),
        ("E", CATS, None),
        ("B. a dog", CATS, 1),
        ("(C) a cat and a dog", CATS, 2),
        ("A cat", CATS, 0),  # a choice's text, though it begins with a letter
        ("A small animal", CATS, None),
        ("a dog.", CATS, 1),
        ("It shows a dog", CATS, 1),
        ("It shows a cat and a dog", CATS, None),  # three choices stand in it
        ("The answer is C.", CATS, 2),
        ("Not A; the answer is (D)", CATS, 3),
        ("The answer is A. No: the answer is B.", CATS, 1),
        ("Answer: **C**", CATS, 2),
        ("answer: B", CATS, 1),
        ("the answer is a dog", CATS, 1),
        ("the answer is A cat", CATS, 0),
        ("I do not know", CATS, None),
        ("", CATS, None),
        ("12", ["1", "12", "2"], 1),
        ("it is 12", ["1", "12", "2"], 1),
        ("U.S. law", ["x", "y"], None),
        ("B", ["B", "A"], 0),  # the choice that says B, not the second one
        ("<think>A?</think>B", CATS, None),  # `choice` takes the thoughts away first
    ],
)
def test_chosen(text: str, choices: list[str], found: int | None) -> None:
    assert chosen(text, choices) == found


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [("B", ["B"], True), ("B", ["a dog"], True), ("a dog", ["b"], True), ("A", ["B"], False), ("?", ["B"], False), ("C", ["A", "c"], True)],
)
def test_choice(text: str, accepted: list[str], right: bool) -> None:
    assert choice(text, accepted, CATS) is right
    assert choice(f"<think>hm, D</think> {text}", accepted, CATS) is right


def test_hostile_texts_take_no_time() -> None:
    for text in ("(" * 50_000, "answer " * 20_000, "A" * 100_000, ". " * 50_000, "\u202e" * 1000, "answer is " + "*" * 50_000):
        for scorer in SCORERS.values():
            assert scorer(text, ["B"], CATS) in (True, False)


def test_final_answer() -> None:
    assert final_answer("one</think>two</think> three ") == "three" and final_answer(" plain ") == "plain"
    assert final_answer("<thinking>one</thinking> two") == final_answer("\u25c1think\u25b7one\u25c1/think\u25b7two") == "two"
    assert final_answer("<think></think>") == ""


@pytest.mark.parametrize("text", ["<think>5", "<think>B", "<think>one</think> <think>5", "<think>5</thin", "5 <think> hm", "<thinking>\n5"])
def test_a_thought_without_an_end_is_no_answer(text: str) -> None:
    assert final_answer(text) is None
    for accepted in ("5", "B", "a dog", text, text.removeprefix("<think>"), ""):
        assert not any(scorer(text, [accepted], CATS) for scorer in SCORERS.values())


def test_unknown_scorer() -> None:
    with pytest.raises(UsageError, match=r"no scorer 'bleu'. Known: exact, relaxed, choice"):
        find_scorer("bleu")
