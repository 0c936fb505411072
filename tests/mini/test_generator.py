"""The generator: the same images and answers from the same seed, correct answers, one split for one content."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_layerprune.artifacts.prompts import prompts, subtasks
from hf_layerprune.mini.canvas import GLYPHS, SHAPES, Canvas
from hf_layerprune.mini.generator import Example, draw_example, draw_image
from hf_layerprune.mini.problems import Problem, draw_problem
from hf_layerprune.mini.scenes import Scene, Thing, draw_scene

ALL = [name for domain in ("math", "nonmath") for name in subtasks(domain)]
MATH = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "×": lambda a, b: a * b}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def draws(subtask: str, count: int = 200, **options: object) -> list[Example]:
    return [draw_example(subtask, "evaluate", index, **options) for index in range(count)]  # type: ignore[arg-type]


def worked_out(equations: str) -> int:
    """The value of "a+b=x" or "a+b=y, y-c=x"."""
    known: dict[str, int] = {}
    for equation in equations.split(", "):
        match = re.fullmatch(r"(\w+)([-+×])(\d+)=([xy])", equation)
        assert match
        first = known[match[1]] if match[1] in known else int(match[1])
        known[match[4]] = MATH[match[2]](first, int(match[3]))
    return known["x"]


@pytest.mark.parametrize("subtask", ALL)
def test_an_example_is_its_seeds(subtask: str) -> None:
    first, again = draw_example(subtask, "train", 5), draw_example(subtask, "train", 5)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image)) and first.answer == again.answer
    assert first.question == {**prompts()["math"], **prompts()["nonmath"]}[subtask] and first.subtask == subtask
    other = draw_example(subtask, "train", 5, seed=1)
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))


def test_problems_are_small_and_never_negative() -> None:
    two_steps = 0
    for example in draws("math-cot"):
        *lines, last = example.answer.removesuffix(".").split(". ")
        value: int | None = None
        for line in lines:
            first, operator, number, result = re.fullmatch(r"(\d+)([-+×])(\d+)=(\d+)", line).groups()  # type: ignore[union-attr]
            assert value in (None, int(first))
            value = int(result)
            assert MATH[operator](int(first), int(number)) == value >= 0
        assert last == f"The answer is {value}"
        two_steps += len(lines) == 2
    assert 13 < two_steps < 49  # of 200, a share of 0.15


@pytest.mark.parametrize("index", range(40))
def test_one_image_has_one_meaning(index: int) -> None:
    """An image is drawn before it is asked about: the answers to all questions about it agree."""
    answers = draw_problem(Random(index)).answers()
    value = worked_out(answers["math-formalize"])
    assert answers["math-direct"] == str(value) and answers["math-cot"].endswith(f"The answer is {value}.")
    numbers = re.findall(r"\d+", answers["math-rephrase"])
    assert numbers == re.findall(r"\d+", answers["math-formalize"]) and answers["math-verify"].startswith("Yes")

    scene = draw_scene(Random(index))
    answers = scene.answers()
    listed = re.findall(r"(no|one|two|three|four|five|six) (\w+) (\w+?)(?:e?s)?\b(?=,| and|\.)", answers["captioning"])
    assert sum(NUMBERS[number] for number, _, _ in listed) == int(answers["counting"]) == len(scene.things)
    kinds = answers["entity-listing"].split(", ")
    assert len(kinds) == len(set(kinds)) == len(listed) and answers["grounding"].removeprefix("the big ") in kinds


def test_answers_are_spread() -> None:
    """Half of the problems to verify hide a number; scenes have one to six objects."""
    answers = Counter(example.answer for example in draws("math-verify"))
    assert set(answers) == {"Yes, every number can be read.", "No, one number is hidden."}
    assert 70 < answers["No, one number is hidden."] < 130
    counts = Counter(example.answer for example in draws("counting", 300))
    assert set(counts) == set("123456") and min(counts[number] for number in "3456") > 35


def test_images_of_any_size_show_the_same() -> None:
    for domain in ("math", "nonmath"):
        small, large = (draw_image(domain, "probe", 1, size=size) for size in (64, 448))
        assert small.size == (64, 64) and large.size == (448, 448) and small.mode == "RGB"
        shrunk = np.asarray(large.resize((64, 64), Image.Resampling.BOX), float)
        assert np.abs(shrunk - np.asarray(small, float)).mean() < 12
    for size in (0, 3, 63):
        with pytest.raises(ValueError, match="does not divide"):
            Canvas(size, (0, 0, 0))


@pytest.mark.parametrize("size", [64, 100, 448])
def test_what_is_drawn_stays_in_its_cell_and_is_told_apart(size: int) -> None:
    """At every shift, so that one cell is one image token."""
    for shift in ((-1, -1), (1, 1), (0.3, -0.7)):
        images = set()
        for name in (*GLYPHS, *SHAPES):
            canvas = Canvas(size, (0, 0, 0))
            if name in SHAPES:
                canvas.shape(1, 2, name, 0.47, (255, 255, 255), shift)
            else:
                canvas.glyph(1, 2, name, (255, 255, 255), shift)
            painted = np.argwhere(canvas.pixels.any(2))
            assert len(painted) >= 2 and (painted // (size // 4) == [1, 2]).all(), name
            images.add(canvas.pixels.tobytes())
        assert len(images) == len(GLYPHS) + len(SHAPES)


@pytest.mark.parametrize(
    ("same", "other"),
    [
        ([(7, ("+", 5)), (5, ("+", 7))], (7, ("-", 5))),
        ([(9, ("-", 3), ("+", 4)), (9, ("+", 4), ("-", 3)), (4, ("+", 9), ("-", 3))], (9, ("+", 3), ("-", 4))),
        ([(3, ("×", 8), ("-", 2)), (8, ("×", 3), ("-", 2))], (3, ("×", 2), ("-", 8))),
        ([(2, ("+", 3), ("×", 4)), (3, ("+", 2), ("×", 4))], (2, ("×", 4), ("+", 3))),
    ],
)
def test_the_content_of_a_problem_is_what_it_works_out(same: list[Any], other: Any) -> None:
    contents = {Problem(first, steps).contents for first, *steps in same}
    assert len(contents) == 1
    assert Problem(other[0], other[1:]).contents not in contents


def test_a_hidden_number_counts_and_the_place_of_an_object_does_not() -> None:
    whole, hidden, another = Problem(12, (("+", 7),)), Problem(12, (("+", 7),), 1), Problem(12, (("+", 5),), 1)
    assert whole.contents[0] == hidden.contents[0] != another.contents[0]
    assert hidden.contents[1] == another.contents[1] not in whole.contents
    ring, cross = Thing(3, "red", "ring", False), Thing(9, "gray", "cross", True)
    moved = Scene((replace(cross, cell=0), replace(ring, cell=15)))
    assert Scene((ring, cross)).contents == moved.contents
    assert Scene((replace(ring, big=True), replace(cross, big=False))).contents != moved.contents
    assert Scene((ring, ring, cross)).contents != moved.contents
