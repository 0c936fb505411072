"""Qwen3-VL: a Qwen3 decoder, dense or with experts, whose first layers receive the vision tower's DeepStack features."""

from __future__ import annotations

from dataclasses import replace

from hf_layerprune.families.family import Family, ImageTokens, Layout

QWEN3_VL = Family(
    model_type="qwen3_vl",
    architectures=("Qwen3VLForConditionalGeneration",),
    layouts=(
        Layout("model.language_model.", ("model.visual.",), "model.visual.blocks."),
        Layout("language_model.", ("visual.",), "visual.blocks."),  # saved from the base class
    ),
    module="model.language_model.layers",
    images=ImageTokens("Qwen3VLProcessor"),
    per_layer=("layer_types",),
    layer_indices=("mlp_only_layers",),
    # transformers writes the names of a classifier's classes, by number, into every config.
    other_lists=("rope_scaling.mrope_section", "rope_parameters.mrope_section", "id2label"),
    vision_depth="vision_config.depth",
    base_architectures=("Qwen3VLModel",),
    ignored=("mtp.",),
    deepstack="vision_config.deepstack_visual_indexes",
)

# 30B-A3B and 235B-A22B. With another sparse step a layer's number decides whether it has experts.
QWEN3_VL_MOE = replace(
    QWEN3_VL,
    model_type="qwen3_vl_moe",
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    base_architectures=("Qwen3VLMoeModel",),
    required={"decoder_sparse_step": 1},
)
