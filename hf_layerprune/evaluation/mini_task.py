"""The tasks of mini: held-out draws of its two built-in domains, never drawn in training, probing or healing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from PIL import Image

from hf_layerprune.artifacts.eval_report import TaskRecord
from hf_layerprune.artifacts.prompts import Domain, prompts, subtasks
from hf_layerprune.evaluation.samples import Sample
from hf_layerprune.mini.generator import GENERATOR_VERSION, MINI_PIXELS, draw_content, draw_example

MINI_TASKS: Mapping[str, Domain] = MappingProxyType({"mini-math": "math", "mini-general": "nonmath"})
MINI_SAMPLES = 500  # a domain: a hundred of each of five math subtasks, 125 of each of four others
MOST_MINI_SAMPLES = 10_000  # of a domain: of 4,000 draws of a math subtask some 1,100 are different problems, of a scene some 3,000
MINI_TOKENS = 48  # the longest correct answer has fewer


@dataclass(frozen=True)
class MiniTask:
    """`count` draws of a domain, spread evenly over its subtasks (the first ones get what is left over); scored by exact match."""

    name: str
    count: int = MINI_SAMPLES
    seed: int = 0
    max_new_tokens: int = MINI_TOKENS
    scorer: str = "exact"
    unusable: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    @property
    def domain(self) -> Domain:
        return MINI_TASKS[self.name]

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The subtasks by turns."""
        return tuple(map(self._sample, range(self.count)))

    @property
    def digest(self) -> str:
        content = [
            GENERATOR_VERSION,
            self.name,
            self.count,
            self.seed,
            MINI_PIXELS,
            self.max_new_tokens,
            self.scorer,
            dict(prompts()[self.domain]),
        ]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def record(self) -> TaskRecord:
        return TaskRecord(self.name, self.digest, self.count, 0, self.name, "mini, held-out draws", None, self.seed, self.count)

    def images(self, index: int) -> Sequence[Image.Image]:
        name, number = self._place(index)
        return [draw_example(name, "evaluate", number, seed=self.seed).image]

    def _place(self, index: int) -> tuple[str, int]:
        names = subtasks(self.domain)
        return names[index % len(names)], index // len(names)

    def _sample(self, index: int) -> Sample:
        name, number = self._place(index)
        answer = draw_content(name, "evaluate", number, seed=self.seed)[0].answers()[name]  # without its image
        label = f"{self.name}, {name} {number}"
        return Sample(index, label, name, prompts()[self.domain][name], (answer,), (), self.scorer, self.max_new_tokens)
