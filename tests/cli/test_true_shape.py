"""A checkpoint of the true Qwen3-VL-2B shape, 4.3 GB of random weights: converted in under 300 MB of memory, without torch."""

from __future__ import annotations

import json
import math
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.measured import MEASURED
from tests.tiny_checkpoint import make_config
from tests.tiny_shapes import tensor_shapes

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 28, 2048, 6144, 151_936
ONE_LAYER = 2 * (2 * 2048 * 2048 + 2 * 1024 * 2048 + 3 * HIDDEN * INTERMEDIATE + 2 * HIDDEN + 2 * 128)  # bytes, by hand
MEMORY = 300_000_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real config's sizes and tensor names; the weights are one random block again and again, of a length that fits no tensor."""
    folder = tmp_path_factory.mktemp("true-shape") / "Qwen3-VL-2B"
    folder.mkdir()
    text = {"intermediate_size": INTERMEDIATE, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
    text |= {"vocab_size": VOCABULARY, "rope_scaling__mrope_section": [24, 20, 20], "max_position_embeddings": 262_144}
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "deepstack_visual_indexes": [5, 11, 17]}
    vision |= {"patch_size": 16, "num_position_embeddings": 2304}
    overrides = {f"text_config__{key}": value for key, value in text.items()}
    overrides |= {f"vision_config__{key}": value for key, value in vision.items()}
    config = make_config(LAYERS, True, HIDDEN, **overrides, image_token_id=151_655, video_token_id=151_656)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensor_shapes(config).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    block = np.random.default_rng(0).bytes(30_000_001)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for begin in range(0, end, len(block)):
            file.write(block[: end - begin])
    yield folder
    shutil.rmtree(folder)


def convert(environment: dict[str, str], here: Path, source: Path, *arguments: str) -> int:
    """Convert to `out` and return how many bytes of tensors went; memory and modules are checked."""
    command = [sys.executable, "-c", MEASURED, "convert", str(source), *arguments, "-o", "out", "--json"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    measured, said = json.loads(done.stderr.splitlines()[-1]), json.loads(done.stdout)
    assert measured["torch"] == [] and measured["peak"] < MEMORY, measured
    return int(said["source_bytes"] - said["bytes"])


def test_by_hand(environment: dict[str, str], here: Path, source: Path) -> None:
    """Verified against the source while memory is measured; 2.13 billion parameters, as the real one's card says."""
    whole = (source / "model.safetensors").stat().st_size
    assert whole / 2 == pytest.approx(2.1275e9, rel=1e-3)
    assert convert(environment, here, source, "--layers", "11,17-20") == 5 * ONE_LAYER
    assert abs((here / "out/model.safetensors").stat().st_size - (whole - 5 * ONE_LAYER)) < 100_000  # the header is shorter too
    assert json.loads((here / "out/config.json").read_text())["text_config"]["num_hidden_layers"] == 23
    shutil.rmtree(here / "out")


def test_at_random(environment: dict[str, str], here: Path, source: Path) -> None:
    """floor(0.25 x 26) = 6 layers go, in shards."""
    arguments = ("--method", "random", "--budget", "0.25", "--no-verify", "--max-shard-size", "1GB")
    assert convert(environment, here, source, *arguments) == 6 * ONE_LAYER
    assert len(list((here / "out").glob("model-*.safetensors"))) == 4
    shutil.rmtree(here / "out")


def converting(environment: dict[str, str], here: Path, source: Path) -> subprocess.Popen[str]:
    """A conversion that has begun to write."""
    command = [sys.executable, "-m", "hf_layerprune", "convert", str(source), "--layers", "11", "-o", "out"]
    process = subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 600
    while not any(path.stat().st_size for path in here.glob(".layerprune-*.staging/*")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_while_writing_leaves_nothing(
    environment: dict[str, str], here: Path, source: Path, number: signal.Signals, code: int
) -> None:
    process = converting(environment, here, source)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == code and not list(here.iterdir())
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.strip() == "interrupted: nothing was written; run the same command again."


@pytest.mark.parametrize("pause", [0, 0.03], ids=["at once", "a little later"])
def test_interrupted_twice(environment: dict[str, str], here: Path, source: Path, pause: float) -> None:
    """Cleaning up may be cut short: what is left has a hidden name, and no traceback is shown."""
    process = converting(environment, here, source)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err, err
    assert not [path for path in here.iterdir() if not path.name.startswith(".layerprune-")]
