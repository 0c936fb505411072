"""Tasks by the names that a person gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.data.records import RecordTable, drawn
from hf_layerprune.data.tables import DataSpec, open_table
from hf_layerprune.errors import DataError, UsageError, shown
from hf_layerprune.evaluation.mini_task import MINI_SAMPLES, MINI_TASKS, MINI_TOKENS, MOST_MINI_SAMPLES, MiniTask
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.table_task import TableTask
from hf_layerprune.families.family import find
from hf_layerprune.mini import comes_from_mini, model_path
from hf_layerprune.registry import did_you_mean


def open_tasks(checkpoint: Checkpoint, options: EvaluateOptions, say: Callable[[str], None]) -> tuple[Task, ...]:
    """The tasks that the options name; with none the two of mini for a checkpoint that comes from it.

    Raises UsageError where none is named and there is no default, or one is named twice; DataError if a task cannot be opened.
    """
    if not options.names and not comes_from_mini(checkpoint.path):
        raise _missing(checkpoint.id)
    tasks = tuple(_open(name, options, say) for name in options.names or MINI_TASKS)
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


def _open(name: str, options: EvaluateOptions, say: Callable[[str], None]) -> Task:
    if name in MINI_TASKS:
        tokens = options.max_new_tokens or MINI_TOKENS
        if (options.samples or 0) > MOST_MINI_SAMPLES:
            few = f"at most {MOST_MINI_SAMPLES:,} of {name}: it has thousands of held-out problems and scenes, and more draws repeat them"
            raise UsageError(f"--samples {options.samples}: {few}.")
        return MiniTask(name, options.samples or MINI_SAMPLES, options.seed, tokens, options.scorer or "exact")
    spec = DataSpec.parse(name)
    if spec.name in ("mini", *MINI_TASKS):
        raise UsageError(f"--tasks {name}: the tasks of mini are {' and '.join(MINI_TASKS)}; --samples says how many of each.")
    if not Path(spec.name).exists() and "/" not in spec.name and (hint := did_you_mean(spec.name, MINI_TASKS)):
        raise UsageError(f"--tasks: no task and no file {shown(spec.name)}. {hint.strip()}")
    table = _table(spec, options, say)
    named = spec.as_recorded(table.revision)
    return TableTask(Path(named.name).name, table, options.seed, options.scorer, options.max_new_tokens, str(named))


def _table(spec: DataSpec, options: EvaluateOptions, say: Callable[[str], None]) -> RecordTable:
    """The table, of `samples` records: of a Hub dataset no more than those are fetched."""
    wanted = options.samples
    table = open_table(spec, at_most=wanted, seed=options.seed, local_files_only=options.local_files_only, say=say)
    if wanted is None or wanted == len(table):
        return table
    if wanted < len(table):
        return drawn(table, wanted, options.seed)
    if not options.allow_fewer:
        raise DataError(f"{spec}: {len(table):,} records, fewer than --samples {wanted}. To go on with them, add --allow-fewer.")
    say(f"note: {table.origin}: {len(table):,} records, fewer than --samples {wanted}")
    return table
