"""Tiny Qwen3-VL checkpoints with experts: what `tiny_checkpoint` must be told to make them, in the layout of the released ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_checkpoint import make_checkpoint, make_config

# No two of hidden size 32, 2 x 12, 12 and 5 are equal: a transposed tensor of a square shape would load, and be wrong, in silence.
MOE: dict[str, Any] = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "text_config__decoder_sparse_step": 1,
    "text_config__mlp_only_layers": [],
    "text_config__model_type": "qwen3_vl_moe_text",
    "text_config__moe_intermediate_size": 12,
    "text_config__norm_topk_prob": True,
    "text_config__num_experts": 5,
    "text_config__num_experts_per_tok": 2,
    "vision_config__model_type": "qwen3_vl_moe",
}
REAL: dict[str, Any] = {
    "text_config__head_dim": 128,
    "text_config__num_experts": 128,
    "text_config__num_experts_per_tok": 8,
    "text_config__num_key_value_heads": 4,
    "text_config__rope_scaling__mrope_section": [24, 20, 20],
    "text_config__vocab_size": 151_936,
    "vision_config__deepstack_visual_indexes": [8, 16, 24],
    "vision_config__depth": 27,
    "vision_config__hidden_size": 1152,
    "vision_config__intermediate_size": 4304,
    "vision_config__num_heads": 16,
    "vision_config__num_position_embeddings": 2304,
    "vision_config__patch_size": 16,
}


def moe_config(layers: int = 6, tied: bool = False, hidden: int = 32, **overrides: Any) -> dict[str, Any]:
    """As `make_config`, with experts; untied, as the released models are."""
    return make_config(layers, tied, hidden, **MOE | overrides)


def moe_checkpoint(folder: Path, layers: int = 6, shards: int = 1, **overrides: Any) -> Path:
    """As `make_checkpoint`, with experts; untied."""
    return make_checkpoint(folder, layers, tied=False, shards=shards, **MOE | overrides)


def config_30b_a3b() -> dict[str, Any]:
    """The sizes of Qwen/Qwen3-VL-30B-A3B-Instruct."""
    sizes = {"num_attention_heads": 32, "intermediate_size": 6144, "moe_intermediate_size": 768}
    return moe_config(48, False, 2048, **REAL, **{f"text_config__{key}": value for key, value in sizes.items()})


def config_235b_a22b() -> dict[str, Any]:
    """The sizes of Qwen/Qwen3-VL-235B-A22B-Instruct."""
    sizes = {"num_attention_heads": 64, "intermediate_size": 12_288, "moe_intermediate_size": 1536}
    return moe_config(94, False, 4096, **REAL, **{f"text_config__{key}": value for key, value in sizes.items()})
