"""How long a rewrite takes and how much memory, against `cp` of the same bytes and against two other ways to do it.

    python examples/benchmarks/rewrite.py --shape 2B --rounds 5 --folder /some/disk

Makes a checkpoint of random bytes in the true shape, removes a quarter of its layers in each way, all ways in turn in every
round, and prints medians and ratios as a table. Needs twice the checkpoint's size on the disk. Every way ends with its bytes on
the disk (fsync or sync). With --cold the page cache is dropped before each run, which needs root on Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.families import family_for
from hf_layerprune.families.tensors import expected_tensors
from hf_layerprune.strategies.planning import make_plan

SHAPES = {  # of Qwen3-VL Instruct: layers, hidden, intermediate, attention heads, vision output
    "2B": (28, 2048, 6144, 16),
    "4B": (36, 2560, 9728, 32),
}
OURS = """
from pathlib import Path; from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint; from hf_layerprune.checkpoint.rewrite import rewrite
rewrite(Checkpoint.open(Path({source!r}), 'bench'), PruningPlan.load({plan!r}), Path({output!r}), verify={verify})
"""
SAFETENSORS = """
import os; from pathlib import Path; from safetensors import safe_open
import json; from safetensors.torch import save_file
names = json.load(open({names!r})); output = Path({output!r}); output.mkdir()
with safe_open({source!r} + '/model.safetensors', 'pt') as file:
    save_file({{new: file.get_tensor(old) for new, old in names.items()}}, output / 'model.safetensors')
os.sync()
"""
TRANSFORMERS = """
import os, torch, json; from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained({source!r}, dtype='auto')
decoder = model.model.language_model; keep = json.load(open({plan!r}))['keep']
decoder.layers = torch.nn.ModuleList([decoder.layers[i] for i in keep]); model.config.text_config.num_hidden_layers = len(keep)
model.save_pretrained({output!r}); os.sync()
"""
PEAK = "\nimport re as _r; print(1024 * int(_r.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]))"


def make_source(folder: Path, shape: str) -> None:
    """A tied Qwen3-VL checkpoint of the shape in one file, its bytes one random block again and again."""
    layers, hidden, intermediate, heads = SHAPES[shape]
    text = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads}
    text |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "model_type": "qwen3_vl_text"}
    text |= {"rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}, "rope_theta": 5e6}
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "in_channels": 3, "patch_size": 16}
    vision |= {"temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": hidden, "num_position_embeddings": 2304}
    vision |= {"deepstack_visual_indexes": [5, 11, 17], "model_type": "qwen3_vl"}
    config: dict[str, Any] = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": True}
    config |= {"dtype": "bfloat16", "text_config": text, "vision_config": vision}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, sizes in expected_tensors(family_for(config, "benchmark"), config, "benchmark").items():
        begin, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    block = (np.random.default_rng(0).integers(0, 1 << 14, 16_000_001, dtype=np.uint16)).tobytes()  # small finite bf16 numbers
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for begin in range(0, end, len(block)):
            file.write(block[: end - begin])


def prepare(folder: Path, shape: str) -> dict[str, list[str]]:
    """The source, the plan and the file that `cp` copies; the command of each way, which writes to `folder/output`."""
    source, output, plan_file, names_file = folder / "source", folder / "output", folder / "plan.json", folder / "names.json"
    make_source(source, shape)
    checkpoint = Checkpoint.open(source, "bench")
    make_plan(checkpoint.facts, "random", budget="25%").save(plan_file)
    places = {"source": str(source), "plan": str(plan_file), "output": str(output), "names": str(names_file)}
    subprocess.run([sys.executable, "-c", OURS.format(**places, verify=False)], check=True)
    manifest = json.loads((output / "layerprune" / "manifest.json").read_text())
    names_file.write_text(json.dumps(manifest["tensors"]))
    kept = folder / "kept.safetensors"
    (output / "model.safetensors").rename(kept)
    shutil.rmtree(output)
    python = [sys.executable, "-c"]
    return {
        "cp, then sync": ["bash", "-c", f"mkdir {output} && cp {kept} {output}/model.safetensors && sync {output}/model.safetensors"],
        "ours, sha256 and fsync": [*python, OURS.format(**places, verify=False) + PEAK],
        "ours, and read back and compared": [*python, OURS.format(**places, verify=True) + PEAK],
        "safe_open + save_file": [*python, SAFETENSORS.format(**places) + PEAK],
        "transformers load + save": [*python, TRANSFORMERS.format(**places) + PEAK],
    }


def run(command: list[str], output: Path, cold: bool) -> tuple[float, int]:
    """Seconds of one run from a state with nothing left to write, and its peak memory in bytes, 0 if it does not say."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    if cold:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    peak = re.search(r"(\d+)\s*$", done.stdout)
    return seconds, int(peak[1]) if peak else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="2B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parser.add_argument("--only", default="", help="regular expression of the ways to run; cp always runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        ways = prepare(Path(name), options.shape)
        ways = {way: command for way, command in ways.items() if way.startswith("cp") or re.search(options.only, way)}
        measured: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, command in ways.items():
                measured[way].append(run(command, Path(name) / "output", options.cold))
        size = (Path(name) / "kept.safetensors").stat().st_size
    cp = [seconds for seconds, _ in measured["cp, then sync"]]
    print(f"{options.shape}, {size / 1e9:.2f} GB written, {'cold' if options.cold else 'warm'} cache, median of {options.rounds} rounds\n")
    print("| way | seconds | of cp, pair by pair | peak memory |\n|---|---|---|---|")
    for way, runs in measured.items():
        seconds, peak = statistics.median(one for one, _ in runs), max(peak for _, peak in runs)
        ratio = statistics.median(one / other for (one, _), other in zip(runs, cp, strict=True))
        print(f"| {way} | {seconds:.1f} | {ratio:.2f} | {f'{peak / 1e6:.0f} MB' if peak else ''} |")


if __name__ == "__main__":
    main()
