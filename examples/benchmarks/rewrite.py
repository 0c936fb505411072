"""How long a rewrite takes and how much memory, against `cp` of the same bytes and against two other ways to do it.

    python examples/benchmarks/rewrite.py --shape 2B --rounds 5 --folder /some/disk

Makes a checkpoint of random bytes in the true shape, removes a quarter of its layers in each way, all ways in turn in every
round, and prints medians and ratios as a table. Needs 2.6 times the checkpoint's size on the disk. Every way ends with its bytes
on the disk (fsync or sync). What a way reads is brought into the page cache before it runs, or with --cache cold dropped from it,
which needs no root. Peak memory is VmHWM, of a Linux process: with the files that it maps, as the two libraries do.
mergekit wants an environment of its own: --mergekit ITS_PYTHON adds its passthrough merge.
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
from hf_layerprune.models.loading import parameter_shapes
from hf_layerprune.strategies.options import PlanOptions
from hf_layerprune.strategies.planning import make_plan, resolve

SHAPES = {  # of Qwen3-VL Instruct: layers, hidden, intermediate, attention heads, vision output
    "2B": (28, 2048, 6144, 16),
    "4B": (36, 2560, 9728, 32),
}
OURS = """
from pathlib import Path; from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint import copying
class NoDigest:
    update = lambda self, block: None
    hexdigest = lambda self: ''
class NoHashing:
    sha256 = NoDigest
if not {hashing}: copying.hashlib = NoHashing
from hf_layerprune.checkpoint.index import Checkpoint; from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.options import WriteOptions
rewrite(Checkpoint.open(Path({source!r}), 'bench'), PruningPlan.load({plan!r}), Path({output!r}), WriteOptions(verify={verify}))
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

CHILD = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); \
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


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
    for name, sizes in parameter_shapes(config, "benchmark").items():
        begin, end = end, end + 2 * math.prod(sizes)
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    block = (np.random.default_rng(0).integers(0, 1 << 14, 16_000_001, dtype=np.uint16)).tobytes()  # small finite bf16 numbers
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for begin in range(0, end, len(block)):
            file.write(block[: end - begin])


def prepare(folder: Path, shape: str, mergekit: str | None) -> dict[str, list[str]]:
    """The source, the plan and the file that `cp` copies; the command of each way, which writes to `folder/output`."""
    source, output, plan_file, names_file = folder / "source", folder / "output", folder / "plan.json", folder / "names.json"
    make_source(source, shape)
    checkpoint = Checkpoint.open(source, "bench")
    make_plan(checkpoint.facts, resolve(checkpoint.facts, PlanOptions("random", budget="25%"))).save(plan_file)
    places = {"source": str(source), "plan": str(plan_file), "output": str(output), "names": str(names_file)}
    subprocess.run([sys.executable, "-c", OURS.format(**places, hashing=True, verify=False)], check=True)
    manifest = json.loads((output / "layerprune" / "manifest.json").read_text())
    names_file.write_text(json.dumps(manifest["tensors"]))
    kept = folder / "kept.safetensors"
    (output / "model.safetensors").rename(kept)
    shutil.rmtree(output)
    python = [sys.executable, "-c"]
    ways = {
        "cp, then sync": ["bash", "-c", f"mkdir {output} && cp {kept} {output}/model.safetensors && sync {output}/model.safetensors"],
        "ours, sha256 and fsync": [*python, OURS.format(**places, hashing=True, verify=False) + PEAK],
        "ours, also read back and compared": [*python, OURS.format(**places, hashing=True, verify=True) + PEAK],
        "ours, without sha256": [*python, OURS.format(**places, hashing=False, verify=False) + PEAK],
        "safe_open + save_file": [*python, SAFETENSORS.format(**places) + PEAK],
        "transformers load + save": [*python, TRANSFORMERS.format(**places) + PEAK],
    }
    if mergekit:
        (folder / "mergekit.yaml").write_text(json.dumps(_recipe(json.loads(plan_file.read_text())["keep"], source)))  # JSON is YAML
        merge = f"{mergekit} -m mergekit.scripts.run_yaml {folder / 'mergekit.yaml'} {output} --out-shard-size 100B --no-write-model-card"
        measured = f"{sys.executable} -c '{CHILD}' {merge}"
        ways["mergekit passthrough"] = ["bash", "-c", f"{measured} && sync {output}/*.safetensors"]
    return ways


def _recipe(keep: list[int], source: Path) -> dict[str, Any]:
    """mergekit's description of the kept layers: a slice of the decoder for every run of neighbours, the rest of the model whole."""
    starts = [layer for layer in keep if layer - 1 not in keep]
    ends = [layer + 1 for layer in keep if layer + 1 not in keep]
    slices = [{"sources": [{"model": str(source), "layer_range": [start, end]}]} for start, end in zip(starts, ends, strict=True)]
    whole = {"models": [{"model": str(source)}]}
    modules = {"text_decoder": {"slices": slices}, "vision_tower": whole, "multi_modal_projector": whole}
    return {"modules": modules, "merge_method": "passthrough", "dtype": "bfloat16"}


def drop_from_cache(path: Path) -> None:
    """Make the system forget what it has read of a file; what is on the disk already can be dropped without asking root."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def read_into_cache(path: Path) -> None:
    """Have a file in the page cache, as far as there is memory for it."""
    with path.open("rb", buffering=0) as file:
        while file.read(16 << 20):
            pass


def run(command: list[str], folder: Path, cold: bool, read: Path) -> tuple[float, int]:
    """Seconds of one run from a state with nothing left to write, and its peak memory in bytes, 0 if it does not say.

    read: the file that it reads, which is in the page cache before it begins, or with `cold` is not.
    """
    shutil.rmtree(folder / "output", ignore_errors=True)
    os.sync()
    if cold:
        drop_from_cache(read)
    else:
        read_into_cache(read)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")
    peak = re.search(r"(\d+)\s*$", done.stdout)
    return seconds, int(peak[1]) if peak else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="2B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work: a folder on the disk to measure")
    parser.add_argument("--cache", choices=("warm", "cold"), action="append", help="twice for both; default warm")
    parser.add_argument("--mergekit", help="the python of an environment that has mergekit")
    parser.add_argument("--only", default="", help="regular expression of the ways to run; cp always runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ways = prepare(folder, options.shape, options.mergekit)
        ways = {way: command for way, command in ways.items() if way.startswith("cp") or re.search(options.only, way)}
        size = (folder / "kept.safetensors").stat().st_size
        for cache in options.cache or ["warm"]:
            measured: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
            loads = [os.getloadavg()[0]]
            for number in range(1, options.rounds + 1):
                for way, command in ways.items():
                    read = folder / ("kept.safetensors" if way.startswith("cp") else "source/model.safetensors")
                    measured[way].append(run(command, folder, cache == "cold", read))
                    print(f"{cache}, round {number}, {way}: {measured[way][-1][0]:.1f} s", file=sys.stderr, flush=True)
                loads.append(os.getloadavg()[0])
            load = f"load {min(loads):.1f} to {max(loads):.1f}"
            print(f"\n{options.shape}, {size / 1e9:.2f} GB written, {cache} cache, median of {options.rounds} rounds, {load}\n")
            print_table(measured)


def print_table(measured: dict[str, list[tuple[float, int]]]) -> None:
    cp = [seconds for seconds, _ in measured["cp, then sync"]]
    print("| way | seconds | of cp, pair by pair | least and most | peak memory |\n|---|---|---|---|---|")
    for way, runs in measured.items():
        seconds, peak = statistics.median(one for one, _ in runs), max(peak for _, peak in runs)
        ratios = [one / other for (one, _), other in zip(runs, cp, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        memory = f"{peak / 1e6:.0f} MB" if peak else ""
        print(f"| {way} | {seconds:.1f} | {statistics.median(ratios):.2f} | {spread} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
