"""Record what goes into and comes out of every decoder layer during one forward pass, reduced at once to what is summed.

Both sides are recorded: with DeepStack visual features are added between the first layers, so that the output of one is
not the input of the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

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
        """The first sample with unusable activations, its first such layer, and what is wrong there; None if all are fine."""
        finite = np.isfinite(self.input_pool).all(2) & np.isfinite(self.output_pool).all(2) & np.isfinite(self.token_cosine).all(1)
        wrong = ~finite | self.constant
        if not wrong.any():
            return None
        sample, layer = map(int, np.argwhere(wrong)[0])
        kind = "the same output for every token" if finite[sample, layer] else "NaN, infinity or a token of norm zero"
        return sample, layer, kind


class LayerRecorder:
    """Collects while hooks feed it; layers come in order. Cosines and pools are fp32 on the layer's own device."""

    def __init__(self, batch: ImageBatch) -> None:
        self._batch = batch
        self._recent: list[Tensor] = []  # inputs of the last three layers, for the triplets
        self._found: dict[str, list[Tensor]] = defaultdict(list)  # by name, what was recorded layer by layer

    def record(self, entering: Float[Tensor, "batch token hidden"], leaving: Float[Tensor, "batch token hidden"]) -> None:
        """Take the input and the output of the next layer."""
        entering, leaving = entering.to(leaving.device).float(), leaving.float()
        real = self._batch.real.to(leaving.device)[..., None]
        counts, samples = real.sum(1), torch.arange(len(leaving), device=leaving.device)
        self._found["cosine"].append(_cosine(entering, leaving))
        self._found["constant"].append(((leaving == leaving[:, :1]) | ~real).all(2).all(1))
        self._recent = [*self._recent[-2:], entering]
        if len(self._recent) == 3:
            self._found["triplet"].append(_cosine(self._recent[0].to(leaving.device), leaving))
        for side, hidden in (("input", entering), ("output", leaving)):
            self._found[f"{side}_pool"].append(hidden.where(real, 0).sum(1) / counts)
            self._found[f"{side}_end"].append(hidden[samples, counts[:, 0] - 1])

    def sums(self) -> SampleSums:
        """Reduce over tokens, in fp64; only now is an accelerator waited for."""
        layers = {name: torch.stack([part.cpu() for part in parts], 1).double() for name, parts in self._found.items()}  # [B, L, ...]
        real, visual = (mask.cpu().numpy() for mask in (self._batch.real, self._batch.visual))
        kinds = np.stack([real, real & visual, real & ~visual], 1)  # [B, K, T]
        tokens = kinds.sum(2).astype(np.float64)
        token_cosine = _masked_sums(kinds, layers["cosine"])
        ends = [layers[f"{side}_end"] for side in ("input", "output")]
        unit = [(end / end.norm(dim=-1, keepdim=True)).numpy() for end in ends]
        return SampleSums(
            tokens=tokens,
            cosine=token_cosine / tokens[:, :, None],
            token_cosine=token_cosine,
            triplet_cosine=_masked_sums(kinds[:, :1], layers["triplet"])[:, 0],
            last_token_cosine=np.triu(np.einsum("bld,bmd->blm", *unit)),
            input_pool=layers["input_pool"].numpy(),
            output_pool=layers["output_pool"].numpy(),
            constant=layers["constant"].bool().numpy(),
        )


@contextmanager
def recording(layers: nn.ModuleList, batch: ImageBatch) -> Iterator[LayerRecorder]:
    """Record every layer of one forward pass of `batch`; the hooks are gone afterwards, whatever happens."""
    recorder = LayerRecorder(batch)

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        recorder.record(entering, output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def seen_once(tower: nn.Module | None, copies: int) -> Iterator[None]:
    """Within it a vision tower that is given one image `copies` times sees it once, and what it makes of it is repeated.

    tower: None where a family declares none; then nothing changes
    """

    def first(value: Any) -> Any:
        return value[: len(value) // copies] if isinstance(value, Tensor) and value.dim() else value

    def shortened(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(first, args)), {name: first(value) for name, value in kwargs.items()}

    def repeated(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _mapped(output, lambda value: torch.cat([value] * copies))

    handles = (
        []
        if tower is None or copies == 1
        else [tower.register_forward_pre_hook(shortened, with_kwargs=True), tower.register_forward_hook(repeated)]
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with every tensor in it changed, also in lists and in the outputs of transformers."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: _mapped(item, change) for name, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _cosine(a: Float[Tensor, "batch token hidden"], b: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch token"]:
    """Cosine per token; NaN for a token of norm zero, so that it is noticed."""
    cosine: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return cosine


def _masked_sums(kinds: Bool[np.ndarray, "batch kind token"], values: Float[Tensor, "batch layer token"]) -> Array:
    """Sums over the tokens of each mask [B, K, L]; what lies outside the mask, NaN too, does not count."""
    return np.stack([np.where(kinds[:, kind, None], values.numpy(), 0).sum(2) for kind in range(kinds.shape[1])], 1)
