"""Draw pictures, questions and answers of mini's two domains from a seed.

The splits never share a draw: a split's name is part of what seeds it. Random(str) hashes the string with SHA-512, which
Python promises to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from hf_layerprune.artifacts.prompts import Domain, domain_of, prompts
from hf_layerprune.mini.problems import Problem, draw_problem
from hf_layerprune.mini.scenes import Scene, draw_scene

Split = Literal["train", "probe", "heal", "evaluate"]
MINI_PIXELS = 64


@dataclass(frozen=True)
class Example:
    """One question about one picture, with its one right answer."""

    subtask: str
    image: Image.Image
    question: str
    answer: str


def draw_example(subtask: str, split: Split, index: int, *, seed: int = 0, size: int = MINI_PIXELS) -> Example:
    """The `index`-th example of a subtask; half of those for math-verify have a number that cannot be read."""
    rng = Random(f"hf-layerprune/{split}/{seed}/{subtask}/{index}")
    domain = domain_of(subtask)
    content = _draw(domain, rng, hide_a_number=subtask == "math-verify" and rng.random() < 0.5)
    return Example(subtask, content.render(rng, size), prompts()[domain][subtask], content.answers()[subtask])


def draw_image(domain: Domain, split: Split, index: int, *, seed: int = 0, size: int = MINI_PIXELS) -> Image.Image:
    """The `index`-th picture of a domain, to be asked all of the domain's questions; every number in it can be read."""
    rng = Random(f"hf-layerprune/{split}/{seed}/{domain}/{index}")
    return _draw(domain, rng).render(rng, size)


def _draw(domain: Domain, rng: Random, hide_a_number: bool = False) -> Problem | Scene:
    return draw_problem(rng, hide_a_number) if domain == "math" else draw_scene(rng)
