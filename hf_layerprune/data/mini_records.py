"""The built-in records: images, questions and answers that mini's generator draws for healing, never for anything else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hf_layerprune.artifacts.prompts import prompts, subtasks
from hf_layerprune.data.records import Record, check_index
from hf_layerprune.errors import UsageError
from hf_layerprune.mini.generator import GENERATOR_VERSION, MINI_PIXELS, draw_example

MINI_COUNT = 4096


@dataclass(frozen=True)
class MiniTable:
    """`count` examples of the split `heal`, the subtasks by turns; fields: image, question, answer and subtask."""

    tasks: tuple[str, ...]
    count: int
    seed: int
    origin: str = "mini"
    revision: None = None

    @property
    def digest(self) -> str:
        content = f"mini {GENERATOR_VERSION} heal {MINI_PIXELS} {self.seed} {self.count} {self.tasks}"
        return hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        turn, task = divmod(check_index(index, self.count), len(self.tasks))
        name = self.tasks[task]
        example = draw_example(name, "heal", turn, seed=self.seed)
        fields = {"image": example.image, "question": example.question, "answer": example.answer, "subtask": name}
        return Record(f"mini, {name} {turn}", fields, None)


def mini_records(subset: str | None, count: int | None, seed: int) -> MiniTable:
    """All nine subtasks, or those of a domain, or one; 4096 examples unless `count` says otherwise. UsageError for another subset."""
    every = tuple(name for domain in prompts() for name in subtasks(domain))
    known: dict[str | None, tuple[str, ...]] = {None: every, **{name: (name,) for name in every}}
    known |= {domain: subtasks(domain) for domain in prompts()}
    if subset not in known:
        raise UsageError(f"mini has no subset {subset!r}; it has {', '.join(prompts())} and {', '.join(every)}.")
    origin = "mini" if subset is None else f"mini, {subset}"
    return MiniTable(known[subset], count or MINI_COUNT, seed, origin)
