"""Quantized models: `inspect` says what they are, everything else says what to do instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hub.loopback import LoopbackHub
from tests.hub.models import content, put
from tests.tiny_checkpoint import make_checkpoint, make_config, make_tensors, write_safetensors

Run = Any
SCHEMES: dict[str, tuple[dict[str, Any], type, list[str]]] = {
    "fp8": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "ignored_layers": ["lm_head", "model.visual.merger"]},
        np.uint8,
        ["quantized by fp8", "fmt e4m3", "2 modules are not quantized, such as lm_head, model.visual.merger"],
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, np.int32, ["by awq", "bits 4, group_size 128"]),
    "gptq": ({"quant_method": "gptq", "bits": 4, "desc_act": False}, np.int32, ["quantized by gptq", "bits 4"]),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["lm_head"]},
        np.uint8,
        ["by bitsandbytes", "bnb_4bit_quant_type nf4", "1 modules are not quantized, such as lm_head"],
    ),
    "compressed-tensors": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True}}},
            "ignore": ["re:.*visual.*"],
        },
        np.int32,
        ["by compressed-tensors", "format pack-quantized, weights num_bits 4, weights type int", "such as re:.*visual.*"],
    ),
}
DTYPES = {np.uint8: "U8", np.int32: "I32"}


def quantized(folder: Path, scheme: dict[str, Any], kind: type) -> Path:
    """A tiny model whose projections are packed into another type, each with a scale."""
    make_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(make_config(quantization_config=scheme)))
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in make_tensors(make_config()).items():
        packed = "language_model.layers." in name and name.endswith("_proj.weight")
        tensors[name.replace(".weight", ".qweight") if packed else name] = np.zeros((4, 3), kind) if packed else tensor
        if packed:
            tensors[name.replace(".weight", ".scales")] = np.ones((4,), np.uint16)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize(("scheme", "kind", "said"), SCHEMES.values(), ids=SCHEMES)
def test_described_and_not_pruned(run_here: Run, here: Path, scheme: dict[str, Any], kind: type, said: list[str]) -> None:
    quantized(here / "small", scheme, kind)
    done = run_here("inspect", "small")
    assert done.returncode == 0, done.stderr
    for words in ("small · qwen3_vl · 6 decoder layers x 32", f"42 {DTYPES[kind]} (", "prune the unquantized model, and quantize", *said):
        assert words in done.stdout, done.stdout
    found = json.loads(run_here("inspect", "small", "--json").stdout)["quantized"]
    assert (found["layers"], found["method"], found["tensors"][DTYPES[kind]][0]) == (6, scheme["quant_method"], 42)
    for command in (("convert", "small", "--layers", "3", "-o", "out"), ("plan", "small", "--method", "random", "-o", "plan.json")):
        refused = run_here(*command)
        assert refused.returncode == 1 and "Prune the unquantized checkpoint and quantize the result." in refused.stderr
    assert sorted(path.name for path in here.iterdir()) == ["small"]


def test_on_the_hub_no_weights_are_read(run_here: Run, here: Path, hub: LoopbackHub) -> None:
    folder = quantized(here / "small", SCHEMES["fp8"][0], np.uint8)
    put(hub, "you/small-fp8", content(folder))
    done = run_here("inspect", "you/small-fp8")
    assert done.returncode == 0 and "quantized by fp8" in done.stdout, done.stderr
