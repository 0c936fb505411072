"""Model inputs for the tiny checkpoints: random pictures and words as tensors, without a processor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VISION_START, VISION_END, IMAGE = 92, 93, 90  # of tiny_checkpoint.CONFIG
PATCH_VALUES = 3 * 2 * 4 * 4  # colours x frames x patch height x patch width

Sample = tuple[int, int, int]  # patches down, patches across (both even), words behind the picture


def one_sample(sample: Sample, seed: int = 0) -> dict[str, Tensor]:
    """Inputs [1, T] of one picture followed by words; a picture of h x w patches is h * w / 4 tokens."""
    down, across, words = sample
    generator = torch.Generator().manual_seed(seed + 1000 * down + 100 * across + words)
    ids = [5, VISION_START, *[IMAGE] * (down * across // 4), VISION_END]
    ids += torch.randint(3, 89, (words,), generator=generator).tolist()
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "mm_token_type_ids": torch.tensor([[int(token == IMAGE) for token in ids]]),
        "pixel_values": torch.randn(down * across, PATCH_VALUES, generator=generator),
        "image_grid_thw": torch.tensor([[1, down, across]]),
    }


def one_batch(samples: Sequence[Sample], seed: int = 0) -> dict[str, Tensor]:
    """The same samples as `one_sample` gives them, in one batch [B, T], padded on the right."""
    parts = [one_sample(sample, seed) for sample in samples]
    longest = max(part["input_ids"].shape[1] for part in parts)
    padded = {
        key: torch.cat([torch.nn.functional.pad(part[key], (0, longest - part[key].shape[1])) for part in parts])
        for key in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    return padded | {key: torch.cat([part[key] for part in parts]) for key in ("pixel_values", "image_grid_thw")}
