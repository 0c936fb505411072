"""`evaluate` with the fields of its options as keywords."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.evaluation.run import evaluate


def evaluate_model(
    checkpoint: Checkpoint,
    tasks: str | Sequence[str] = (),
    *,
    against: Checkpoint | str | Path | None = None,
    output: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> EvalReport:
    return evaluate(checkpoint, EvaluateOptions(tasks, **options), against=against, output=output, progress=progress, say=say).report
