"""Draw images, questions and answers of mini's two domains from a seed.

Every problem and every scene belongs to one split, by a hash of its content (`split_of`), whatever is asked about it and however it
is rendered: no two splits share content. What is drawn follows from split, seed, subtask and index; Random(str) hashes the string
with SHA-512, which Python promises to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from hf_layerprune.artifacts.prompts import Domain, domain_of, prompts
from hf_layerprune.mini.problems import TWO_STEPS, Problem, draw_problem
from hf_layerprune.mini.scenes import Scene, draw_scene

Split = Literal["train", "probe", "calibrate", "heal", "validate", "evaluate"]
SHARES: dict[Split, int] = {"train": 15, "probe": 2, "calibrate": 2, "heal": 2, "validate": 2, "evaluate": 2}  # of 25
GENERATOR_VERSION = 2  # part of the digest of whatever is drawn
MINI_PIXELS = 64

_SPLITS = tuple(split for split, share in SHARES.items() for _ in range(share))


@dataclass(frozen=True)
class Example:
    """One question about one image, with its one correct answer."""

    subtask: str
    image: Image.Image
    question: str
    answer: str


def split_of(content: str) -> Split:
    """The split that a problem or scene of this content belongs to."""
    return _SPLITS[int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % len(_SPLITS)]


def draw_example(
    subtask: str, split: Split, index: int, *, seed: int = 0, size: int = MINI_PIXELS, two_steps: float = TWO_STEPS
) -> Example:
    """The `index`-th example of a subtask; half of those for math-verify have a number that cannot be read.

    two_steps: the share of problems in two steps, among the math subtasks.
    """
    drawn, rng = draw_content(subtask, split, index, seed=seed, two_steps=two_steps)
    return Example(subtask, drawn.render(rng, size), prompts()[domain_of(subtask)][subtask], drawn.answers()[subtask])


def draw_image(domain: Domain, split: Split, index: int, *, seed: int = 0, size: int = MINI_PIXELS) -> Image.Image:
    """The `index`-th image of a domain, to be asked all of the domain's questions; every number in it can be read."""
    rng = Random(f"hf-layerprune/{split}/{seed}/{domain}/{index}")
    return _draw(draw_problem if domain == "math" else draw_scene, split, rng).render(rng, size)


def draw_content(subtask: str, split: Split, index: int, *, seed: int = 0, two_steps: float = TWO_STEPS) -> tuple[Problem | Scene, Random]:
    """The problem or scene of an example, and the generator that its rendering goes on drawing from."""
    rng = Random(f"hf-layerprune/{split}/{seed}/{subtask}/{index}")
    hide = subtask == "math-verify" and rng.random() < 0.5
    return _draw((lambda r: draw_problem(r, hide, two_steps)) if domain_of(subtask) == "math" else draw_scene, split, rng), rng


def _draw(draw: Callable[[Random], Problem | Scene], split: Split, rng: Random) -> Problem | Scene:
    """The first draw whose contents all belong to the split."""
    while True:
        drawn = draw(rng)
        if all(split_of(content) == split for content in drawn.contents):
            return drawn
