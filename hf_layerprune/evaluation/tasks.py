"""Tasks by the names that a person gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hf_layerprune.artifacts.eval_report import TaskSettings
from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.data.records import DrawnTable, RecordTable
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError, UsageError, shown
from hf_layerprune.evaluation.mini_task import MINI_SAMPLES, MINI_TASKS, MINI_TOKENS, MiniTask
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.scoring import find_scorer
from hf_layerprune.evaluation.table_task import TableTask
from hf_layerprune.families.lookup import find
from hf_layerprune.mini import model_path
from hf_layerprune.mini.lineage import comes_from_mini
from hf_layerprune.registry import did_you_mean

MAX_TOKENS = 1 << 16


@dataclass(frozen=True)
class TaskOptions:
    """Options of tasks.

    samples: of a mini domain or of a table; None for 500 and for all
    allow_fewer: go on where there are fewer than `samples`
    scorer, max_new_tokens: None for those of the task
    seed: of what is drawn
    """

    samples: int | None = None
    allow_fewer: bool = False
    scorer: str | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    local_files_only: bool = False

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least 1 is needed.")
        if self.max_new_tokens is not None and not 1 <= self.max_new_tokens <= MAX_TOKENS:
            raise UsageError(f"--max-new-tokens {self.max_new_tokens}: expected a number from 1 to {MAX_TOKENS:,}.")
        if self.scorer is not None:
            find_scorer(self.scorer)

    @property
    def asked(self) -> TaskSettings:
        """What decides the samples and their scores, for the report."""
        return TaskSettings(self.samples, self.allow_fewer, self.scorer, self.max_new_tokens, self.seed)


def open_tasks(names: Sequence[str], checkpoint: Checkpoint, options: TaskOptions, say: Callable[[str], None]) -> tuple[Task, ...]:
    """The tasks of these names; with none the two of mini for a checkpoint that comes from it.

    Raises UsageError where none is named and there is no default, or one is named twice; DataError if a task cannot be opened.
    """
    if not names and not comes_from_mini(checkpoint.path):
        raise _missing(checkpoint.id)
    tasks = tuple(_open(name, options, say) for name in names or MINI_TASKS)
    every = [task.name for task in tasks]
    if twice := [name for name in every if every.count(name) > 1]:
        raise UsageError(f"--tasks: {twice[0]!r} is given twice. Leave one out, or rename the file.")
    return tasks


def check_names(names: Sequence[str], facts: ModelFacts) -> None:
    """Refuse what cannot be meant before a model's weights are fetched; UsageError as `open_tasks`."""
    for name in names:
        DataSpec.parse(name)
    if not names and facts.hidden_size != find(read_config(model_path()), "text_config.hidden_size"):
        raise _missing(facts.source.id)


def _missing(model: str) -> UsageError:
    return UsageError(
        f"--tasks is missing: {model} does not come from mini, so there is no default. Give a file of lines "
        '{"question": ..., "image": ..., "answer": ...}, such as --tasks questions.jsonl, or a dataset\'s id with these fields.'
    )


def _open(name: str, options: TaskOptions, say: Callable[[str], None]) -> Task:
    if name in MINI_TASKS:
        tokens = options.max_new_tokens or MINI_TOKENS
        return MiniTask(name, options.samples or MINI_SAMPLES, options.seed, tokens, options.scorer or "exact")
    spec = DataSpec.parse(name)
    if spec.name in ("mini", *MINI_TASKS):
        raise UsageError(f"--tasks {name}: the tasks of mini are {' and '.join(MINI_TASKS)}; --samples says how many of each.")
    if not Path(spec.name).exists() and "/" not in spec.name and (hint := did_you_mean(spec.name, MINI_TASKS)):
        raise UsageError(f"--tasks: no task and no file {shown(spec.name)}. {hint.strip()}")
    table = _table(spec, options, say)
    named = spec.as_recorded(table.revision)
    return TableTask(Path(named.name).name, table, options.seed, options.scorer, options.max_new_tokens, str(named))


def _table(spec: DataSpec, options: TaskOptions, say: Callable[[str], None]) -> RecordTable:
    """The table, of `samples` records: of a Hub dataset no more than those are fetched."""
    open_it = partial(open_table, seed=options.seed, local_files_only=options.local_files_only, say=say)
    wanted = options.samples
    if wanted and spec.count is None and not Path(spec.name).exists() and not options.allow_fewer:
        return open_it(replace(spec, count=wanted))
    table = open_it(spec)
    if wanted is None or wanted == len(table):
        return table
    if wanted < len(table):
        return DrawnTable(table, wanted, options.seed)
    if not options.allow_fewer:
        raise DataError(f"{spec}: {len(table):,} records, fewer than --samples {wanted}. To go on with them, add --allow-fewer.")
    say(f"note: {table.origin}: {len(table):,} records, fewer than --samples {wanted}")
    return table
