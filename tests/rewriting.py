"""`rewrite` with the fields of its options as keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint import rewrite as writing
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.options import WriteOptions


def rewrite(
    checkpoint: Checkpoint,
    plan: PruningPlan,
    output: Path,
    *,
    records: Mapping[str, bytes] = {},
    progress: Callable[[int], None] | None = None,
    expected: Manifest | None = None,
    **options: Any,
) -> Manifest:
    return writing.rewrite(checkpoint, plan, output, WriteOptions(**options), records=records, progress=progress, expected=expected)
