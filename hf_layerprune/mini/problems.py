"""The math domain of mini: arithmetic written in columns, and its answers to the five math prompts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from hf_layerprune.mini.canvas import Canvas, Color

_PAPERS: tuple[Color, ...] = ((255, 255, 255), (250, 244, 228), (236, 240, 246), (240, 248, 236))
_INKS: tuple[Color, ...] = ((24, 24, 24), (28, 44, 120), (96, 44, 20), (20, 84, 48), (128, 20, 36))
TWO_STEPS = 0.15  # the share of problems in two steps
_SPOKEN = {"+": "add", "-": "take away", "×": "multiply by"}


@dataclass(frozen=True)
class Problem:
    """A first number, then one or two steps, each an operator and a number, worked from top to bottom."""

    first: int
    steps: tuple[tuple[str, int], ...]
    hidden: int | None = None  # which of the numbers is blotted out in the image; None: every one can be read

    @property
    def contents(self) -> tuple[str, ...]:
        """Its numbers and operations in canonical form, and, if one is hidden, what can still be seen of them."""
        operators = [operator for operator, _ in self.steps]
        whole = _canonical(self._numbers, operators)
        if self.hidden is None:
            return (whole,)
        seen = ["■" if place == self.hidden else number for place, number in enumerate(self._numbers)]
        return (whole, _canonical(seen, operators))

    def values(self) -> list[int]:
        """The running results: the first number, then the value after each step."""
        values = [self.first]
        for operator, number in self.steps:
            values.append(apply(values[-1], operator, number))
        return values

    def answers(self) -> dict[str, str]:
        """The correct answer to each math prompt; a problem with a hidden number answers only math-verify."""
        if self.hidden is not None:
            return {"math-verify": "No, one number is hidden."}
        values, operators = self.values(), [operator for operator, _ in self.steps]
        numbers = self._numbers[1:]
        lines = [f"{a}{op}{b}={c}" for a, op, b, c in zip(values, operators, numbers, values[1:])]
        spoken = " and ".join(f"{_SPOKEN[op]} {b}" for op, b in self.steps)
        names = ["y", "x"][-len(numbers) :]
        equations = [f"{a}{op}{b}={name}" for a, op, b, name in zip([self.first, "y"], operators, numbers, names)]
        return {
            "math-cot": f"{'. '.join(lines)}. The answer is {values[-1]}.",
            "math-direct": str(values[-1]),
            "math-rephrase": f"Start with {self.first}, {spoken}.",
            "math-formalize": ", ".join(equations),
            "math-verify": "Yes, every number can be read.",
        }

    def render(self, rng: Random, size: int) -> Image.Image:
        """The problem as an image: a number to a row, right-aligned, with paper, ink, place and jitter drawn from `rng`."""
        canvas, ink = Canvas(size, rng.choice(_PAPERS)), rng.choice(_INKS)
        numbers = list(self._numbers)
        if self.hidden is not None:
            numbers[self.hidden] = "■" * len(numbers[self.hidden])
        rows = [numbers[0], *(operator + number.rjust(2) for (operator, _), number in zip(self.steps, numbers[1:])), "=?"]
        top, left = rng.randrange(5 - len(rows)), rng.randrange(2)
        for row, text in enumerate(rows):
            for column, glyph in enumerate(text.rjust(3)):
                if glyph != " ":
                    canvas.glyph(top + row, left + column, glyph, ink, (rng.uniform(-1, 1), rng.uniform(-1, 1)))
        return canvas.image()

    @property
    def _numbers(self) -> list[str]:
        return [str(self.first), *(str(number) for _, number in self.steps)]


def apply(value: int, operator: str, number: int) -> int:
    """One step of arithmetic: `+`, `-` or `×`."""
    return {"+": value + number, "-": value - number, "×": value * number}[operator]


def draw_problem(rng: Random, hide_a_number: bool = False, two_steps: float = TWO_STEPS) -> Problem:
    """A share `two_steps` in two steps, the others in one (plus or minus, up to 99); no result below zero."""
    first, steps = _draw_one_step(rng) if rng.random() < 1 - two_steps else _draw_two_steps(rng)
    hidden = rng.randrange(len(steps) + 1) if hide_a_number else None
    return Problem(first, steps, hidden)


def _draw_one_step(rng: Random) -> tuple[int, tuple[tuple[str, int], ...]]:
    operator = rng.choice("+-")
    number = rng.randint(1, 9) if rng.random() < 0.5 else rng.randint(10, 99)
    return rng.randint(number if operator == "-" else 1, 99), ((operator, number),)


def _draw_two_steps(rng: Random) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Digits after the first number. A product is always followed by a step: the table of products alone is too small to hold out."""
    operator = rng.choice("+-×")
    number = rng.randint(1, 9)
    first = rng.randint(1, 9) if operator == "×" else rng.randint(number if operator == "-" else 1, 99)
    value = apply(first, operator, number)
    then = rng.choice("+-") if value else "+"
    return first, ((operator, number), (then, rng.randint(1, min(9, value) if then == "-" else 9)))


def _canonical(numbers: list[str], operators: list[str]) -> str:
    """The sum of signed terms, or product, that the steps amount to, with whatever may be exchanged in sorted order."""
    terms = ["+" + numbers[0]]
    for operator, number in zip(operators, numbers[1:]):
        if operator == "×":
            whole = terms[0].removeprefix("+") if len(terms) == 1 else f"({''.join(sorted(terms))})"
            terms = ["+" + "×".join(sorted((whole, number)))]
        else:
            terms.append(operator + number)
    return "".join(sorted(terms))
