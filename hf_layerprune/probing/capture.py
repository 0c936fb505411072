"""Record what goes into and comes out of every decoder layer during one forward pass, reduced at once to what is summed.

Both sides are recorded: with DeepStack visual features are added between the first layers, so that the output of one is
not the input of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes
from hf_layerprune.models.batches import ImageBatch

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class SampleSums:
    """The contribution of each of B samples, fp64, in the terms of LayerStatistics: K token kinds, L layers, width d."""

    tokens: Array  # [B, K]
    cosine: Array  # [B, K, L], the mean over a sample's tokens
    token_cosine: Array  # [B, K, L], the sum over its tokens
    triplet_cosine: Array  # [B, L - 2], the sum over its tokens
    last_token_cosine: Array  # [B, L, L]
    input_pool: Array  # [B, L, d]
    output_pool: Array  # [B, L, d]
    constant: Bool[np.ndarray, "batch layer"]  # whether a layer gives every token the same output

    def problem(self) -> tuple[int, int, str] | None:
        """The first sample whose activations say nothing, its first such layer, and what is wrong there; None if all is well."""
        finite = np.isfinite(self.input_pool).all(2) & np.isfinite(self.output_pool).all(2) & np.isfinite(self.token_cosine).all(1)
        wrong = ~finite | self.constant
        if not wrong.any():
            return None
        sample, layer = map(int, np.argwhere(wrong)[0])
        kind = "the same output for every token" if finite[sample, layer] else "NaN, infinity or a token of norm zero"
        return sample, layer, kind


SUMMED = ("cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool")  # each in an array `..._sum`


class Accumulator:
    """Running sums, from zero or from the statistics of a probe that was interrupted; memory does not grow with the samples."""

    def __init__(self, model: ModelFacts, subtasks: tuple[str, ...], start: LayerStatistics | None = None) -> None:
        self._model, self._subtasks = model, subtasks
        shapes, kinds = array_shapes(len(subtasks), model.layers, model.hidden_size), {"samples": np.int64, "tokens": np.int64}
        self._arrays = {
            name: getattr(start, name).copy() if start else np.zeros(shape, kinds.get(name, np.float64)) for name, shape in shapes.items()
        }

    def add(self, subtasks: Sequence[str], sums: SampleSums) -> None:
        """Add one sample of each of the `subtasks`, in the order of the batch."""
        for sample, name in enumerate(subtasks):
            row = self._subtasks.index(name)
            self._arrays["samples"][row] += 1
            self._arrays["tokens"][row] += sums.tokens[sample].astype(np.int64)
            self._arrays["cosine_square_sum"][row] += sums.cosine[sample] ** 2
            for summed in SUMMED:
                self._arrays[f"{summed}_sum"][row] += getattr(sums, summed)[sample]

    def statistics(self, record: ProbeRecord) -> LayerStatistics:
        """What was added so far, as a value of its own."""
        arrays: dict[str, Any] = {name: array.copy() for name, array in self._arrays.items()}
        return LayerStatistics(self._model, record, self._subtasks, **arrays)


class LayerRecorder:
    """Collects while hooks feed it; layers come in order. Cosines and pools are fp32 on the layer's own device."""

    def __init__(self, batch: ImageBatch) -> None:
        self._batch = batch
        self._last = batch.real.sum(1) - 1
        self._recent: list[Tensor] = []  # inputs of the last three layers, for the triplets
        self._cosines: list[Tensor] = []
        self._triplets: list[Tensor] = []
        self._pools: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._ends: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._constant: list[Tensor] = []

    def record(self, entering: Float[Tensor, "batch token hidden"], leaving: Float[Tensor, "batch token hidden"]) -> None:
        """Take the input and the output of the next layer."""
        entering, leaving = entering.float(), leaving.float()
        self._cosines.append(_cosine(entering, leaving))
        self._constant.append(self._is_constant(leaving))
        self._recent = [*self._recent[-2:], entering]
        if len(self._recent) == 3:
            self._triplets.append(_cosine(self._recent[0].to(leaving.device), leaving))
        for side, hidden in enumerate((entering, leaving)):
            self._pools[side].append(self._pool(hidden))
            rows = torch.arange(len(hidden), device=hidden.device)
            self._ends[side].append(hidden[rows, self._last.to(hidden.device)])

    def sums(self) -> SampleSums:
        """Reduce over tokens, in fp64."""
        real, visual = (mask.cpu().numpy() for mask in (self._batch.real, self._batch.visual))
        kinds = np.stack([real, real & visual, real & ~visual], 1)  # [B, K, T]
        tokens = kinds.sum(2).astype(np.float64)
        token_cosine = _masked_sums(kinds, _stack(self._cosines))
        ends = [_gather(side).double() for side in self._ends]
        unit = [(side / side.norm(dim=-1, keepdim=True)).numpy() for side in ends]
        return SampleSums(
            tokens=tokens,
            cosine=token_cosine / tokens[:, :, None],
            token_cosine=token_cosine,
            triplet_cosine=_masked_sums(kinds[:, :1], _stack(self._triplets))[:, 0],
            last_token_cosine=np.triu(np.einsum("bld,bmd->blm", *unit)),
            input_pool=_stack(self._pools[0]),
            output_pool=_stack(self._pools[1]),
            constant=_gather(self._constant).numpy(),
        )

    def _is_constant(self, hidden: Float[Tensor, "batch token hidden"]) -> Bool[Tensor, "batch"]:
        return ((hidden == hidden[:, :1]).all(2) | ~self._batch.real.to(hidden.device)).all(1)

    def _pool(self, hidden: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch hidden"]:
        real = self._batch.real.to(hidden.device)[..., None]
        return hidden.where(real, 0).sum(1) / real.sum(1)


@contextmanager
def recording(layers: nn.ModuleList, batch: ImageBatch) -> Iterator[LayerRecorder]:
    """Record every layer of one forward pass of `batch`; the hooks are gone afterwards, whatever happens."""
    recorder = LayerRecorder(batch)
    handles = [layer.register_forward_hook(_hook(recorder), with_kwargs=True) for layer in layers]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _hook(recorder: LayerRecorder) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        recorder.record(entering, output[0] if isinstance(output, tuple) else output)

    return hook


def _cosine(a: Float[Tensor, "batch token hidden"], b: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch token"]:
    """Cosine per token; NaN for a token of norm zero, so that it is noticed."""
    cosine: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return cosine


def _gather(per_layer: list[Tensor]) -> Tensor:
    """One tensor [B, L, ...] in main memory of what was recorded layer by layer; only now is an accelerator waited for."""
    return torch.stack([part.cpu() for part in per_layer], 1)


def _stack(per_layer: list[Tensor]) -> Array:
    """One fp64 array [B, L, ...] of what was recorded layer by layer."""
    return np.asarray(_gather(per_layer).double().numpy())


def _masked_sums(kinds: Array, values: Array) -> Array:
    """[B, K, T] masks and [B, L, T] values to sums [B, K, L]; what lies outside the mask, NaN too, does not count."""
    return np.stack([np.where(kinds[:, kind, None], values, 0).sum(2) for kind in range(kinds.shape[1])], 1)
