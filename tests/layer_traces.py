"""What the statistics of one sample must be: plain hooks, plain numpy in fp64, one unpadded sample at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Trace = list[tuple[np.ndarray, np.ndarray]]  # per layer its input and output, [T, d] each


@dataclass(frozen=True)
class Expected:
    """The fields of SampleSums of one sample, without the sample's axis."""

    tokens: np.ndarray
    cosine: np.ndarray
    token_cosine: np.ndarray
    triplet_cosine: np.ndarray
    last_token_cosine: np.ndarray
    input_pool: np.ndarray
    output_pool: np.ndarray


def trace(model: nn.Module, inputs: dict[str, Tensor]) -> Trace:
    """Input and output of each decoder layer in a forward pass of one sample without padding."""
    layers = model.model.language_model.layers  # type: ignore[union-attr]
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before.append((args[0] if args else kwargs["hidden_states"])[0].double().numpy())

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        after.append(output[0].double().numpy())

    handles = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leaving) for layer in layers]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return list(zip(before, after, strict=True))


def expected(layers: Trace, visual: np.ndarray) -> Expected:
    """The sums of one sample; `visual` [T] says which of its tokens are visual."""
    kinds = [np.ones(len(visual), bool), visual, ~visual]
    cosines = np.array([[cosine(x[t], y[t]) for t in range(len(visual))] for x, y in layers])
    triplets = [sum(cosine(layers[i][0][t], layers[i + 2][1][t]) for t in range(len(visual))) for i in range(len(layers) - 2)]
    ends = np.zeros((len(layers), len(layers)))
    for i in range(len(layers)):
        for j in range(i, len(layers)):
            ends[i, j] = cosine(layers[i][0][-1], layers[j][1][-1])
    return Expected(
        tokens=np.array([kind.sum() for kind in kinds]),
        cosine=np.array([cosines[:, kind].mean(1) for kind in kinds]),
        token_cosine=np.array([cosines[:, kind].sum(1) for kind in kinds]),
        triplet_cosine=np.array(triplets),
        last_token_cosine=ends,
        input_pool=np.array([x.mean(0) for x, _ in layers]),
        output_pool=np.array([y.mean(0) for _, y in layers]),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
