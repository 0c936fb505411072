"""Record what goes into and comes out of every decoder layer during forward passes, reduced at once to what is summed.

Both sides are recorded: with DeepStack visual features are added between the first layers, so that the output of one is
not the input of the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Array = Float[np.ndarray, "..."]
SUMMED = ("tokens", "cosine", "triplet", "input_sum", "output_sum")  # what is added up over the passes of a sample


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
    """Collects while hooks feed it; layers come in order. Cosines and pools are fp32 on the layer's own device.

    What is summed over the tokens of a sample may be seen in several passes: first the tokens that samples share, then each one's own.
    """

    def __init__(self) -> None:
        self._passes: list[_Pass] = []

    def begin(self, real: Bool[Tensor, "batch token"], visual: Bool[Tensor, "batch token"]) -> None:
        """Say what the next pass is over: which of its tokens are no padding, and which are an image's.

        A pass has as many rows as there are samples, or fewer, each for as many samples one after the other.
        """
        self._passes.append(_Pass(real, visual))

    def record(self, entering: Float[Tensor, "batch token hidden"], leaving: Float[Tensor, "batch token hidden"]) -> None:
        """Take the input and the output of the next layer."""
        self._passes[-1].record(entering, leaving)

    def sums(self) -> SampleSums:
        """Reduce over tokens, in fp64; only now is an accelerator waited for."""
        samples = len(self._passes[-1].real)
        passes = [found.reduced(samples) for found in self._passes]
        last, total = passes[-1], {name: np.add.reduce([found[name] for found in passes]) for name in SUMMED}
        tokens, token_cosine = total["tokens"], total["cosine"]
        with np.errstate(divide="ignore", invalid="ignore"):  # of a token of norm zero: `problem` finds it
            unit = [end / np.linalg.norm(end, axis=-1, keepdims=True) for end in (last["input_end"], last["output_end"])]
        constant = np.logical_and.reduce(
            [found["constant"] & (found["output_start"] == passes[0]["output_start"]).all(-1) for found in passes]
        )
        count = tokens[:, :1, None]
        return SampleSums(
            tokens=tokens,
            cosine=token_cosine / tokens[:, :, None],
            token_cosine=token_cosine,
            triplet_cosine=total["triplet"],
            last_token_cosine=np.triu(np.einsum("bld,bmd->blm", *unit)),
            input_pool=total["input_sum"] / count,
            output_pool=total["output_sum"] / count,
            constant=constant,
        )


class _Pass:
    """What was recorded of one forward pass, layer by layer."""

    def __init__(self, real: Bool[Tensor, "batch token"], visual: Bool[Tensor, "batch token"]) -> None:
        self.real, self._visual = real, visual
        self._recent: list[Tensor] = []  # inputs of the last three layers, for the triplets
        self._found: dict[str, list[Tensor]] = defaultdict(list)

    def record(self, entering: Tensor, leaving: Tensor) -> None:
        entering, leaving = entering.to(leaving.device).float(), leaving.float()
        real = self.real.to(leaving.device)[..., None]
        ends, rows = real.sum(1)[:, 0] - 1, torch.arange(len(leaving), device=leaving.device)
        self._found["cosine"].append(_cosine(entering, leaving))
        self._found["constant"].append(((leaving == leaving[:, :1]) | ~real).all(2).all(1))
        self._found["output_start"].append(leaving[:, 0])
        self._recent = [*self._recent[-2:], entering]
        if len(self._recent) == 3:
            self._found["triplet"].append(_cosine(self._recent[0].to(leaving.device), leaving))
        for side, hidden in (("input", entering), ("output", leaving)):
            self._found[f"{side}_sum"].append(hidden.where(real, 0).sum(1))
            self._found[f"{side}_end"].append(hidden[rows, ends])

    def reduced(self, samples: int) -> dict[str, Array]:
        """Sums over the tokens of each mask, and what the ends are, for each of the samples that a row stands for."""
        layers = {name: torch.stack([part.cpu() for part in parts], 1).double() for name, parts in self._found.items()}  # [B, L, ...]
        real, visual = (mask.cpu().numpy() for mask in (self.real, self._visual))
        kinds = np.stack([real, real & visual, real & ~visual], 1)  # [B, K, T]
        found = {name: values.numpy() for name, values in layers.items() if name not in ("cosine", "triplet")}
        found["tokens"] = kinds.sum(2).astype(np.float64)
        found["cosine"] = _masked_sums(kinds, layers["cosine"])
        found["triplet"] = _masked_sums(kinds[:, :1], layers["triplet"])[:, 0]
        found["constant"] = found["constant"].astype(bool)
        return {name: np.repeat(values, samples // len(real), 0) for name, values in found.items()}


@contextmanager
def recording(layers: nn.ModuleList) -> Iterator[LayerRecorder]:
    """Record every layer of the passes that are begun within it; the hooks are gone afterwards, whatever happens."""
    recorder = LayerRecorder()

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        recorder.record(entering, output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _cosine(a: Float[Tensor, "batch token hidden"], b: Float[Tensor, "batch token hidden"]) -> Float[Tensor, "batch token"]:
    """Cosine per token; NaN for a token of norm zero, so that it is noticed."""
    cosine: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return cosine


def _masked_sums(kinds: Bool[np.ndarray, "batch kind token"], values: Float[Tensor, "batch layer token"]) -> Array:
    """Sums over the tokens of each mask [B, K, L]; what lies outside the mask, NaN too, does not count."""
    return np.stack([np.where(kinds[:, kind, None], values.numpy(), 0).sum(2) for kind in range(kinds.shape[1])], 1)
