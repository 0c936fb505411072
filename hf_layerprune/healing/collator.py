"""Samples of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_layerprune.healing.encoding import IGNORED, EncodedSample, token_keys


@dataclass(frozen=True)
class Collator:
    """Pads on the right to the longest sample: input_ids with the token `padding`, labels with -100, all else with 0.

    Of B samples, the longest of T tokens, with N pictures of P patches in all: token keys [B, T], pixel_values [P, d],
    image_grid_thw [N, 3], in the order of the samples. Samples without a picture may be among them; a batch of such alone has no
    pictures' keys at all.
    """

    padding: int
    token_keys: frozenset[str]

    @classmethod
    def of(cls, processor: Any) -> Collator:
        """With the padding token of a processor's tokenizer, or where it has none its end token, or 0: they are masked anyway."""
        tokenizer = processor.tokenizer
        padding = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
        return cls(padding, token_keys(processor))

    def __call__(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        keys = dict.fromkeys(key for sample in samples for key in sample)
        return {key: self._padded(key, samples) if key in self.token_keys else _joined(key, samples) for key in keys}

    def _padded(self, key: str, samples: Sequence[EncodedSample]) -> Int[Tensor, "batch token"]:
        fillers = {"input_ids": self.padding, "labels": IGNORED}
        return pad_sequence([sample[key] for sample in samples], batch_first=True, padding_value=fillers.get(key, 0))


def _joined(key: str, samples: Sequence[Mapping[str, Tensor]]) -> Tensor:
    return torch.cat([sample[key] for sample in samples if key in sample])
