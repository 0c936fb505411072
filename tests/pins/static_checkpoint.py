"""Tiny Qwen3-VL checkpoints whose names, shapes and bytes are written out here: nothing of the product's own rules goes into them.

Their numbers come from the raw stream of numpy's PCG64, which is the same in every version of numpy. All layers but for the norms'
shapes are made of matrices that are not square, so that a transposed one cannot load.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]  # bf16 as uint16: numpy has no bf16

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 90,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 40,
        "max_position_embeddings": 512,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        "rope_theta": 5000000,
        "use_cache": True,
        "vocab_size": 96,
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 91,
    "vision_config": {
        "deepstack_visual_indexes": [0, 1],
        "depth": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 16,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 24,
        "model_type": "qwen3_vl",
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 93,
    "vision_start_token_id": 92,
}
VISION: Shapes = {
    "model.visual.patch_embed.proj.weight": (16, 3, 2, 4, 4),
    "model.visual.patch_embed.proj.bias": (16,),
    "model.visual.pos_embed.weight": (16, 16),
}
BLOCK: Shapes = {
    "norm1.weight": (16,),
    "norm1.bias": (16,),
    "norm2.weight": (16,),
    "norm2.bias": (16,),
    "attn.qkv.weight": (48, 16),
    "attn.qkv.bias": (48,),
    "attn.proj.weight": (16, 16),
    "attn.proj.bias": (16,),
    "mlp.linear_fc1.weight": (24, 16),
    "mlp.linear_fc1.bias": (24,),
    "mlp.linear_fc2.weight": (16, 24),
    "mlp.linear_fc2.bias": (16,),
}
MERGER: Shapes = {
    "norm.weight": (16,),
    "norm.bias": (16,),
    "linear_fc1.weight": (64, 64),
    "linear_fc1.bias": (64,),
    "linear_fc2.weight": (32, 64),
    "linear_fc2.bias": (32,),
}
DEEPSTACK_MERGER = MERGER | {"norm.weight": (64,), "norm.bias": (64,)}
ATTENTION: Shapes = {
    "input_layernorm.weight": (32,),
    "self_attn.q_proj.weight": (64, 32),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 64),
    "self_attn.q_norm.weight": (16,),
    "self_attn.k_norm.weight": (16,),
    "post_attention_layernorm.weight": (32,),
}
MLP: Shapes = {"mlp.gate_proj.weight": (40, 32), "mlp.up_proj.weight": (40, 32), "mlp.down_proj.weight": (32, 40)}
ROUTER: Shapes = {"mlp.gate.weight": (5, 32)}
# Five experts of width 12, stacked: the input dimension first as Qwen released them, the output dimension first as transformers 5 saves.
RELEASED: Shapes = ROUTER | {"mlp.experts.gate_up_proj": (5, 32, 24), "mlp.experts.down_proj": (5, 12, 32)}
RESAVED: Shapes = ROUTER | {"mlp.experts.gate_up_proj": (5, 24, 32), "mlp.experts.down_proj": (5, 32, 12)}
SIDE_FILES = {
    "generation_config.json": b'{"do_sample": false}\n',
    "preprocessor_config.json": b'{"patch_size": 4,\r\n "merge_size": 2}',
    "chat_template.jinja": b"{{ messages[0].content }}\n",
    "LICENSE": b"Apache-2.0\n",
    "additional/vocab.txt": b"\xff\x00not text\n",
    "README.md": b"---\nlicense: apache-2.0\nlanguage:\n- en\npipeline_tag: image-text-to-text\n---\n# Tiny\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
}
LAYERS, WEIGHTS = "model.language_model.layers.", "model.safetensors"


def dense_config(tied: bool = True) -> dict[str, Any]:
    """A config.json value of six layers, the first two of which receive DeepStack features."""
    return copy.deepcopy(CONFIG) | {"tie_word_embeddings": tied}


def dense_shapes(tied: bool = True) -> Shapes:
    """The shape of every tensor of that model."""
    return _towers() | _layers([MLP] * 6) | _ends(tied)


def moe_config(resaved: bool) -> dict[str, Any]:
    """As `dense_config`, with experts in every layer but the third, untied, as the released models are."""
    config = dense_config(tied=False)
    config["architectures"], config["model_type"] = ["Qwen3VLMoeForConditionalGeneration"], "qwen3_vl_moe"
    experts = {"num_local_experts" if resaved else "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    rest = {"decoder_sparse_step": 1, "mlp_only_layers": [2], "model_type": "qwen3_vl_moe_text", "norm_topk_prob": True}
    config["text_config"] |= experts | rest
    config["vision_config"]["model_type"] = "qwen3_vl_moe"
    return config


def moe_shapes(resaved: bool) -> Shapes:
    """The shape of every tensor of that model, in either layout of its experts."""
    experts = RESAVED if resaved else RELEASED
    return _towers() | _layers([experts, experts, MLP, experts, experts, experts]) | _ends(tied=False)


def _towers() -> Shapes:
    blocks = {f"model.visual.blocks.{block}.{name}": shape for block in range(3) for name, shape in BLOCK.items()}
    merger = {f"model.visual.merger.{name}": shape for name, shape in MERGER.items()}
    taps = {f"model.visual.deepstack_merger_list.{tap}.{name}": shape for tap in range(2) for name, shape in DEEPSTACK_MERGER.items()}
    return VISION | blocks | merger | taps | {"model.language_model.embed_tokens.weight": (96, 32)}


def _layers(mlps: Sequence[Shapes]) -> Shapes:
    return {f"{LAYERS}{layer}.{name}": shape for layer, mlp in enumerate(mlps) for name, shape in (ATTENTION | mlp).items()}


def _ends(tied: bool) -> Shapes:
    return {"model.language_model.norm.weight": (32,)} | ({} if tied else {"lm_head.weight": (96, 32)})


def make_tensors(shapes: Shapes, seed: int = 0) -> Tensors:
    """bf16 numbers between -0.25 and 0.25, those of norms' weights around one; no two tensors are equal."""
    stream = np.random.PCG64(seed)
    tensors = {}
    for name, shape in shapes.items():
        raw = stream.random_raw(int(np.prod(shape))) >> np.uint64(40)
        values = raw.astype(np.float32) / np.float32(1 << 25) - np.float32(0.25)
        if "norm" in name and name.endswith("weight"):
            values += np.float32(1)
        tensors[name] = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(shape)
    return tensors


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, Any] | None = {"format": "pt"}) -> None:
    """A safetensors file of bf16 tensors, in their order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [*tensor.shape], "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(tensor.astype("<u2").tobytes() for tensor in tensors.values()))


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: Tensors, shards: Sequence[Sequence[str]] = ()) -> Path:
    """A model folder with side files of every kind: one weight file, or a shard for each list of names and their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if not shards:
        write_safetensors(folder / WEIGHTS, tensors)
    places = {}
    for number, names in enumerate(shards, 1):
        shard = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / shard, {name: tensors[name] for name in names})
        places |= dict.fromkeys(names, shard)
    if shards:
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    for name, content in SIDE_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_dense(folder: Path, tied: bool = True, shards: Sequence[Sequence[str]] = ()) -> Path:
    return write_checkpoint(folder, dense_config(tied), make_tensors(dense_shapes(tied)), shards)


def write_moe(folder: Path, resaved: bool, shards: Sequence[Sequence[str]] = ()) -> Path:
    return write_checkpoint(folder, moe_config(resaved), make_tensors(moe_shapes(resaved)), shards)


def in_shards(shapes: Shapes, count: int) -> list[list[str]]:
    """The names, so many lists of neighbours."""
    names = [*shapes]
    ends = [len(names) * part // count for part in range(count + 1)]
    return [names[begin:end] for begin, end in pairwise(ends)]


def by_layer(shapes: Shapes) -> list[list[str]]:
    """The names, a list for each decoder layer between what comes before and after them."""
    layers = [[name for name in shapes if name.startswith(f"{LAYERS}{layer}.")] for layer in range(6)]
    rest = [name for name in shapes if not name.startswith(LAYERS)]
    ends = [name for name in rest if name.startswith(("model.language_model.norm", "lm_head"))]
    return [[name for name in rest if name not in ends], *layers, ends]
