"""Add samples up into LayerStatistics: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes
from hf_layerprune.probing.capture import SampleSums


class Accumulator:
    """Running sums, from zero or from the statistics of a probe that was interrupted."""

    def __init__(self, model: ModelFacts, subtasks: tuple[str, ...], start: LayerStatistics | None = None) -> None:
        self._model, self._subtasks = model, subtasks
        shapes = array_shapes(len(subtasks), model.layers, model.hidden_size)
        kinds = {"samples": np.int64, "tokens": np.int64}
        self._arrays = {
            name: np.zeros(shape, kinds.get(name, np.float64)) if start is None else getattr(start, name).copy()
            for name, shape in shapes.items()
        }

    def add(self, subtasks: Sequence[str], sums: SampleSums) -> None:
        """Add one sample of each of the `subtasks`, in the order of the batch."""
        rows = [self._subtasks.index(name) for name in subtasks]
        for row, sample in zip(rows, range(len(rows)), strict=True):
            for name, values in (
                ("samples", 1),
                ("tokens", sums.tokens[sample].astype(np.int64)),
                ("cosine_sum", sums.cosine[sample]),
                ("cosine_square_sum", sums.cosine[sample] ** 2),
                ("token_cosine_sum", sums.token_cosine[sample]),
                ("triplet_cosine_sum", sums.triplet_cosine[sample]),
                ("last_token_cosine_sum", sums.last_token_cosine[sample]),
                ("input_pool_sum", sums.input_pool[sample]),
                ("output_pool_sum", sums.output_pool[sample]),
            ):
                self._arrays[name][row] += values

    def statistics(self, record: ProbeRecord) -> LayerStatistics:
        """What was added so far, as a value of its own."""
        arrays: dict[str, Any] = {name: array.copy() for name, array in self._arrays.items()}
        return LayerStatistics(self._model, record, self._subtasks, **arrays)
