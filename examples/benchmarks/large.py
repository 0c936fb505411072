"""How long it takes to index, plan and try a conversion of large models, and with how much memory, from their headers alone.

    python examples/benchmarks/large.py --rounds 3 --folder /some/disk

Makes sparse checkpoints of the true shapes: the headers are true, the tensors are holes but for the blocks that the fingerprint is taken
over, so that less than 100 MB of disk do. Every figure is of a process of its own. "index" is `Checkpoint.open`, which reads the
headers, proves that the tensors are those that the config asks for, and takes the fingerprint; "fingerprint" is that part of it, done
again. Both leave out the start of Python, which the commands, measured from outside, include. For "cold cache" the system has
forgotten what it had read of the files, though not where on the disk they lie; all else is warm.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_layerprune.models.loading import parameter_shapes

SHARD_BYTES = 4_000_000_000  # of tensors
LARGE_VISION = (27, 1152, 4304, [8, 16, 24])  # depth, hidden, intermediate, DeepStack
# Of Qwen3-VL Instruct: layers, hidden, intermediate, attention heads, key heads, tied; vision; the width of an expert.
SHAPES: dict[str, tuple[int, int, int, int, int, bool, tuple[Any, ...], int | None]] = {
    "4B": (36, 2560, 9728, 32, 8, True, (24, 1024, 4096, [5, 11, 17]), None),
    "32B": (64, 5120, 25_600, 64, 8, False, LARGE_VISION, None),
    "30B-A3B": (48, 2048, 6144, 32, 4, False, LARGE_VISION, 768),
    "235B-A22B": (94, 4096, 12_288, 64, 4, False, LARGE_VISION, 1536),
}
MEASURED = """
import atexit, json, re, sys, time
seconds = {}
def report():
    peak = 1024 * int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1])
    print(json.dumps({"peak": peak, "seconds": seconds, "torch": "torch" in sys.modules}), file=sys.stderr)
atexit.register(report)
"""
INDEX = """
from pathlib import Path
from hf_layerprune.checkpoint.shards import fingerprint
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.shards import LocalShards
begun = time.perf_counter()
opened = Checkpoint.open(Path(sys.argv[1]), "bench")
seconds["index"] = time.perf_counter() - begun
begun = time.perf_counter()
assert fingerprint(opened.config, opened.shards, LocalShards(opened.path)) == opened.source.fingerprint
seconds["fingerprint"] = time.perf_counter() - begun
"""
COMMAND = """
from hf_layerprune.cli.main import main
main()
"""


def config_of(shape: str) -> dict[str, Any]:
    """A config.json value with every number that decides a tensor's shape."""
    layers, hidden, intermediate, heads, key_heads, tied, (depth, width, vision_mlp, taps), expert = SHAPES[shape]
    text = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads}
    text |= {"num_key_value_heads": key_heads, "head_dim": 128, "vocab_size": 151_936}
    if expert:
        text |= {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": expert, "decoder_sparse_step": 1}
    vision = {"depth": depth, "hidden_size": width, "intermediate_size": vision_mlp, "num_heads": 16, "in_channels": 3, "patch_size": 16}
    vision |= {"temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 2304, "out_hidden_size": hidden}
    vision |= {"deepstack_visual_indexes": taps}
    kind = ("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe") if expert else ("Qwen3VLForConditionalGeneration", "qwen3_vl")
    config = {"architectures": [kind[0]], "model_type": kind[1], "tie_word_embeddings": tied}
    return {**config, "text_config": text, "vision_config": vision}


def split(tensors: dict[str, tuple[int, ...]]) -> list[dict[str, int]]:
    """The bytes of each tensor by name, shard by shard, in the order of layers."""
    shards: list[dict[str, int]] = [{}]
    for name, sizes in sorted(tensors.items(), key=lambda item: [part.zfill(5) for part in item[0].split(".")]):
        nbytes = 2 * math.prod(sizes)
        if sum(shards[-1].values()) + nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = nbytes
    return shards


def make_sparse(folder: Path, shape: str) -> tuple[int, int]:
    """A checkpoint of true headers and holes for tensors; the number of its shards, and of its parameters."""
    config = config_of(shape)
    tensors = parameter_shapes(config, "benchmark")
    folder.mkdir()
    shards, places = split(tensors), {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, nbytes in shard.items():
            header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [end, end + nbytes]}
            end += nbytes
            places[name] = file.name
        raw = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(raw)) + raw)
        os.truncate(file, 8 + len(raw) + end)
        _fill(file, 8 + len(raw), end)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return len(shards), sum(map(math.prod, tensors.values()))


def _fill(file: Path, start: int, size: int) -> None:
    """Random bytes where the fingerprint looks, as its definition says: four blocks of 64 KiB."""
    with file.open("r+b") as opened:
        for place in (0, size // 3, 2 * size // 3, max(0, size - 65_536)):
            opened.seek(start + place)
            opened.write(os.urandom(min(65_536, size - place)))


def drop_from_cache(folder: Path) -> None:
    """Make the system forget what it has read of the files; that needs no root."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def measure(code: str, arguments: list[str], home: Path) -> tuple[dict[str, float], int]:
    """Seconds by what they are of, those of the whole process under "", and its peak memory in bytes; it must not load torch."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED + code, *arguments], env=environment, cwd=home, capture_output=True, text=True)
    whole = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{arguments} failed: {done.stderr[-2000:]}")
    said = json.loads(done.stderr.splitlines()[-1])
    assert not said["torch"]
    return {"": whole, **said["seconds"]}, said["peak"]


def rows(folder: Path, rounds: int) -> list[tuple[str, list[float], int]]:
    """What was measured of a checkpoint: what it is, its seconds, its peak memory."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        home = Path(name)
        random = ["--method", "random", "--budget", "25%"]
        cold = []
        for _ in range(rounds):
            drop_from_cache(folder)
            cold.append(measure(INDEX, [str(folder)], home))
        index = [measure(INDEX, [str(folder)], home) for _ in range(rounds)]
        plan = [measure(COMMAND, ["plan", str(folder), *random, "-o", f"{number}.json"], home) for number in range(rounds)]
        dry = [measure(COMMAND, ["convert", str(folder), *random, "--dry-run"], home) for _ in range(rounds)]
    table = [("fingerprint", index, "fingerprint"), ("index", index, "index"), ("index, cold cache", cold, "index")]
    table += [("`plan`", plan, ""), ("`convert --dry-run`", dry, "")]
    return [(what, [seconds[key] for seconds, _ in runs], max(peak for _, peak in runs)) for what, runs, key in table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work: any disk with sparse files")
    parser.add_argument("--only", choices=SHAPES, action="append", help="one of the shapes; repeatable")
    options = parser.parse_args()
    print(f"median of {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| model | what | seconds | least and most | peak memory |\n|---|---|---|---|---|")
    for name in options.only or SHAPES:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            shards, parameters = make_sparse(Path(place) / name, name)
            model = f"{name}, {parameters / 1e9:.1f} B parameters, {2 * parameters / 1e9:.0f} GB in {shards} shards"
            for what, seconds, peak in rows(Path(place) / name, options.rounds):
                spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
                print(f"| {model} | {what} | {statistics.median(seconds):.3f} | {spread} | {peak / 1e6:.0f} MB |", flush=True)
                model = ""


if __name__ == "__main__":
    main()
