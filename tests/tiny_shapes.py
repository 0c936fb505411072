"""Names and shapes of a Qwen3-VL checkpoint's tensors, by hand: the product has no such table."""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]

LAYERS = "model.language_model.layers."


def tensor_shapes(config: dict[str, Any]) -> Shapes:
    """As released: tied heads left out, experts with the input dimension before the output dimension. The order is that of the fixtures."""
    shapes = vision_shapes(config["vision_config"])
    text = config["text_config"]
    d, layers = text["hidden_size"], range(text["num_hidden_layers"])
    for layer in layers:
        shapes |= {f"{LAYERS}{layer}.{name}": shape for name, shape in attention_shapes(text).items()}
    if text["attention_bias"]:
        widths = {"q": text["num_attention_heads"] * text["head_dim"], "k": text["num_key_value_heads"] * text["head_dim"]}
        widths |= {"v": widths["k"], "o": d}
        shapes |= {f"{LAYERS}{layer}.self_attn.{name}_proj.bias": (width,) for layer in layers for name, width in widths.items()}
    moe = config["model_type"] == "qwen3_vl_moe"
    dense = [layer for layer in layers if not moe or layer in (text.get("mlp_only_layers") or ())]
    wide = text["intermediate_size"]
    for layer in dense:
        shapes |= {f"{LAYERS}{layer}.mlp.{name}_proj.weight": (wide, d) for name in ("gate", "up")}
        shapes[f"{LAYERS}{layer}.mlp.down_proj.weight"] = (d, wide)
    for layer in (layer for layer in layers if layer not in dense):
        experts, wide = text.get("num_experts") or text["num_local_experts"], text["moe_intermediate_size"]
        shapes[f"{LAYERS}{layer}.mlp.gate.weight"] = (experts, d)
        shapes[f"{LAYERS}{layer}.mlp.experts.gate_up_proj"] = (experts, d, 2 * wide)
        shapes[f"{LAYERS}{layer}.mlp.experts.down_proj"] = (experts, wide, d)
    shapes["model.language_model.embed_tokens.weight"] = (text["vocab_size"], d)
    shapes["model.language_model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (text["vocab_size"], d)
    return shapes


def attention_shapes(text: dict[str, Any]) -> Shapes:
    """Of one decoder layer, but for its MLP."""
    d, head = text["hidden_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    return {
        "input_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (queries, d),
        "self_attn.k_proj.weight": (keys, d),
        "self_attn.v_proj.weight": (keys, d),
        "self_attn.o_proj.weight": (d, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "post_attention_layernorm.weight": (d,),
    }


def vision_shapes(vision: dict[str, Any]) -> Shapes:
    """Of the vision tower, its merger, and one merger a DeepStack tap, whose norm is as wide as four patches."""
    w, wide, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = w * vision["spatial_merge_size"] ** 2
    block = {"norm1.weight": (w,), "norm1.bias": (w,), "norm2.weight": (w,), "norm2.bias": (w,)}
    block |= {"attn.qkv.weight": (3 * w, w), "attn.qkv.bias": (3 * w,), "attn.proj.weight": (w, w), "attn.proj.bias": (w,)}
    block |= {"mlp.linear_fc1.weight": (wide, w), "mlp.linear_fc1.bias": (wide,)}
    block |= {"mlp.linear_fc2.weight": (w, wide), "mlp.linear_fc2.bias": (w,)}
    projection: Shapes = {"linear_fc1.weight": (merged, merged), "linear_fc1.bias": (merged,)}
    projection |= {"linear_fc2.weight": (vision["out_hidden_size"], merged), "linear_fc2.bias": (vision["out_hidden_size"],)}
    shapes: Shapes = {
        "patch_embed.proj.weight": (w, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
        "patch_embed.proj.bias": (w,),
        "pos_embed.weight": (vision["num_position_embeddings"], w),
    }
    shapes |= {f"blocks.{number}.{name}": shape for number in range(vision["depth"]) for name, shape in block.items()}
    shapes |= {f"merger.{name}": shape for name, shape in ({"norm.weight": (w,), "norm.bias": (w,)} | projection).items()}
    deep = {"norm.weight": (merged,), "norm.bias": (merged,)} | projection
    taps = range(len(vision["deepstack_visual_indexes"]))
    shapes |= {f"deepstack_merger_list.{number}.{name}": shape for number in taps for name, shape in deep.items()}
    return {f"model.visual.{name}": shape for name, shape in shapes.items()}
