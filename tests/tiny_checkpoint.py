"""Make tiny Qwen3-VL checkpoints with random bf16 weights, from shapes by hand and numpy alone."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerprune.artifacts.plan import Budget, PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from tests.tiny_shapes import tensor_shapes

# What a real Qwen3-VL config.json looks like: key names as released checkpoints have them, none of them in alphabetical order.
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
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "rope_type": "default"},
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
SIDE_FILES = {
    "generation_config.json": b'{"do_sample": false}\n',
    "preprocessor_config.json": b'{"patch_size": 4,\r\n "merge_size": 2}',
    "chat_template.jinja": b"{{ messages[0].content }}\n",
    "LICENSE": b"Apache-2.0\n",
    "additional/vocab.txt": b"\xff\x00not text\n",
    "README.md": b"---\nlicense: apache-2.0\nlanguage:\n- en\n- no\npipeline_tag: image-text-to-text\n---\n# Tiny\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
}


def make_config(layers: int = 6, tied: bool = True, hidden: int = 32, **overrides: Any) -> dict[str, Any]:
    """A config.json value; `overrides` are keys by path, `__` for the dot: text_config__head_dim=16."""
    config = copy.deepcopy(CONFIG)
    config["text_config"].update(num_hidden_layers=layers, hidden_size=hidden)
    config["vision_config"]["out_hidden_size"] = hidden
    config["tie_word_embeddings"] = tied
    for path, value in overrides.items():
        *parents, key = path.split("__")
        section = config
        for parent in parents:
            section = section[parent]
        section[key] = value
    return config


def make_checkpoint(
    folder: Path, layers: int = 6, tied: bool = True, shards: int = 1, hidden: int = 32, seed: int = 0, **overrides: Any
) -> Path:
    """Write a checkpoint folder with every kind of side file and return it. Weights are small normal numbers, norms are ones."""
    config = make_config(layers, tied, hidden, **overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_weights(folder, make_tensors(config, seed), shards)
    for name, content in SIDE_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Name -> bf16 numbers as the upper halves of float32, in uint16."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        norm = "norm" in name and name.endswith("weight")
        values = np.ones(shape, np.float32) if norm else rng.normal(0, 0.2, shape).astype(np.float32)
        tensors[name] = (values.view(np.uint32) >> 16).astype(np.uint16)
    return tensors


def write_weights(folder: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """Write model.safetensors, or so many shards of neighbouring tensors and their index."""
    names = list(tensors)
    if shards == 1:
        return write_safetensors(folder / "model.safetensors", tensors)
    places = {}
    for number, part in enumerate(np.array_split(names, shards), 1):
        shard = f"model-{number:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / shard, {str(name): tensors[str(name)] for name in part})
        places |= {str(name): shard for name in part}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return None


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file, written by hand: numpy, and so safetensors.numpy, has no bf16; here 16 bits are."""
    types = {"uint8": "U8", "int32": "I32"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": types.get(tensor.dtype.name, "BF16"),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(tensor.tobytes() for tensor in tensors.values()))


def make_plan(checkpoint: Checkpoint, drop: tuple[int, ...], **changes: Any) -> PruningPlan:
    """A plan that drops these layers of an opened checkpoint; `changes` replace fields of it."""
    layers = checkpoint.facts.layers
    return PruningPlan(
        **{
            "source": checkpoint.source,
            "family": checkpoint.facts.family,
            "budget": Budget(None, "layers", len(drop)),
            "strategy": "manual",
            "parameters": {},
            "score_meaning": "none",
            "scores": (None,) * layers,
            "protected": (),
            "forced": (),
            "drop": drop,
            "keep": tuple(layer for layer in range(layers) if layer not in drop),
            "original_layers": checkpoint.facts.original_layers,
            **changes,
        }
    )
