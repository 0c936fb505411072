"""Qwen3-VL, dense: a Qwen3 decoder whose first layers receive the vision tower's DeepStack features."""

from __future__ import annotations

from hf_layerprune.families.family import Family, TensorGroup

_NORM = {"norm.weight": "hidden_size", "norm.bias": "hidden_size"}
_MERGED = "hidden_size*spatial_merge_size*spatial_merge_size"
_PROJECTION = {
    "linear_fc1.weight": f"{_MERGED} {_MERGED}",
    "linear_fc1.bias": _MERGED,
    "linear_fc2.weight": f"out_hidden_size {_MERGED}",
    "linear_fc2.bias": "out_hidden_size",
}

VISION_TENSORS = (
    TensorGroup(
        "model.visual.",
        "vision_config",
        {
            "patch_embed.proj.weight": "hidden_size in_channels temporal_patch_size patch_size patch_size",
            "patch_embed.proj.bias": "hidden_size",
            "pos_embed.weight": "num_position_embeddings hidden_size",
        },
    ),
    TensorGroup(
        "model.visual.blocks.{}.",
        "vision_config",
        {
            "norm1.weight": "hidden_size",
            "norm1.bias": "hidden_size",
            "norm2.weight": "hidden_size",
            "norm2.bias": "hidden_size",
            "attn.qkv.weight": "3*hidden_size hidden_size",
            "attn.qkv.bias": "3*hidden_size",
            "attn.proj.weight": "hidden_size hidden_size",
            "attn.proj.bias": "hidden_size",
            "mlp.linear_fc1.weight": "intermediate_size hidden_size",
            "mlp.linear_fc1.bias": "intermediate_size",
            "mlp.linear_fc2.weight": "hidden_size intermediate_size",
            "mlp.linear_fc2.bias": "hidden_size",
        },
        count="vision_config.depth",
    ),
    TensorGroup("model.visual.merger.", "vision_config", {**_NORM, **_PROJECTION}),
    TensorGroup(
        "model.visual.deepstack_merger_list.{}.",
        "vision_config",
        # These normalise after the patches are merged, the last merger before: hence the wider norm.
        {"norm.weight": _MERGED, "norm.bias": _MERGED, **_PROJECTION},
        count="vision_config.deepstack_visual_indexes",
    ),
)

_LAYERS = "model.language_model.layers."

ATTENTION_TENSORS = (
    TensorGroup(
        f"{_LAYERS}{{}}.",
        "text_config",
        {
            "input_layernorm.weight": "hidden_size",
            "self_attn.q_proj.weight": "num_attention_heads*head_dim hidden_size",
            "self_attn.k_proj.weight": "num_key_value_heads*head_dim hidden_size",
            "self_attn.v_proj.weight": "num_key_value_heads*head_dim hidden_size",
            "self_attn.o_proj.weight": "hidden_size num_attention_heads*head_dim",
            "self_attn.q_norm.weight": "head_dim",
            "self_attn.k_norm.weight": "head_dim",
            "post_attention_layernorm.weight": "hidden_size",
        },
        count="text_config.num_hidden_layers",
    ),
    TensorGroup(
        f"{_LAYERS}{{}}.self_attn.",
        "text_config",
        {
            "q_proj.bias": "num_attention_heads*head_dim",
            "k_proj.bias": "num_key_value_heads*head_dim",
            "v_proj.bias": "num_key_value_heads*head_dim",
            "o_proj.bias": "hidden_size",
        },
        count="text_config.num_hidden_layers",
        when=("text_config.attention_bias", True),
    ),
)

MLP_TENSORS = TensorGroup(
    f"{_LAYERS}{{}}.mlp.",
    "text_config",
    {
        "gate_proj.weight": "intermediate_size hidden_size",
        "up_proj.weight": "intermediate_size hidden_size",
        "down_proj.weight": "hidden_size intermediate_size",
    },
    count="text_config.num_hidden_layers",
)

TEXT_ENDS = (
    TensorGroup(
        "model.language_model.",
        "text_config",
        {"embed_tokens.weight": "vocab_size hidden_size", "norm.weight": "hidden_size"},
    ),
    TensorGroup("", "text_config", {"lm_head.weight": "vocab_size hidden_size"}, when=("tie_word_embeddings", False)),
)

QWEN3_VL = Family(
    model_type="qwen3_vl",
    architectures=("Qwen3VLForConditionalGeneration",),
    text="text_config",
    depth="num_hidden_layers",
    width="hidden_size",
    layer_prefix=_LAYERS,
    per_layer=("layer_types",),
    layer_indices=("mlp_only_layers",),
    # transformers writes the names of a classifier's classes, by number, into every config.
    other_lists=("rope_scaling.mrope_section", "rope_parameters.mrope_section", "id2label"),
    deepstack="vision_config.deepstack_visual_indexes",
    vision_depth="vision_config.depth",
    head="lm_head.weight",
    embedding="model.language_model.embed_tokens.weight",
    # Only this flag counts; the one inside text_config is ignored by transformers.
    tied="tie_word_embeddings",
    required={},
    either_way=(),
    tensors=(*VISION_TENSORS, *ATTENTION_TENSORS, MLP_TENSORS, *TEXT_ENDS),
)
