"""Qwen3-VL with experts (30B-A3B, 235B-A22B): the dense model's towers, most decoder layers a router and its experts for an MLP."""

from __future__ import annotations

from dataclasses import replace

from hf_layerprune.families.family import TensorGroup
from hf_layerprune.families.qwen3_vl import ATTENTION_TENSORS, MLP_TENSORS, QWEN3_VL, TEXT_ENDS, VISION_TENSORS

_DENSE_LAYERS = "text_config.mlp_only_layers"
# Released configs say num_experts; transformers 5 writes the same as num_local_experts.
_EXPERTS = "num_experts|num_local_experts"
_GATE_UP = "experts.gate_up_proj"
_DOWN = "experts.down_proj"

EXPERT_TENSORS = TensorGroup(
    MLP_TENSORS.prefix,
    "text_config",
    # All experts of a layer are one tensor a projection, input dimension before output dimension as Qwen released them.
    {
        "gate.weight": f"{_EXPERTS} hidden_size",
        _GATE_UP: f"{_EXPERTS} hidden_size 2*moe_intermediate_size",
        _DOWN: f"{_EXPERTS} moe_intermediate_size hidden_size",
    },
    count="text_config.num_hidden_layers",
    listed=(_DENSE_LAYERS, False),
)

QWEN3_VL_MOE = replace(
    QWEN3_VL,
    model_type="qwen3_vl_moe",
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    required={"decoder_sparse_step": 1},
    # transformers 5 holds experts with the output dimension first and saves them so, even those it has read the other way round.
    either_way=(f"mlp.{_GATE_UP}", f"mlp.{_DOWN}"),
    tensors=(*VISION_TENSORS, *ATTENTION_TENSORS, replace(MLP_TENSORS, listed=(_DENSE_LAYERS, True)), EXPERT_TENSORS, *TEXT_ENDS),
)
