"""Every command line of the README runs, in its order; mini answers under the names of larger models, and of data there is little."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from tests.hub.loopback import serve
from tests.hub.models import content, put
from tests.hub.pushing import TOKEN
from tests.hub.state import Account, Repo

pytest.importorskip("accelerate")
pytest.importorskip("datasets")

ROOT = Path(__file__).parents[1]
# Not commands of ours, or run elsewhere: CI runs the first two lines, test_project the completion.
ELSEWHERE = ("python3 -m venv", "pip install", "hf auth login", "eval ")
# What makes a command small enough for a test, and what stands for a name that only its reader has.
SMALLER = {
    "-28L --recipe domain-aware": "-28L --recipe domain-aware --set batch_size=8 --set max_length=512",
    ",count=100000": ",count=8",
    "-28L --data math.jsonl": "-28L --data math.jsonl --set batch_size=8 --set max_length=512",
    "--recipe interlace --set": "--recipe interlace --data mini,count=32 --set",
    "--against mini": "--against mini --samples 9",
    "-mixed-28L": "-mixed-13L",
    "apply SOURCE": "apply mini",
    "examples/zero3.yaml": str(ROOT / "examples" / "zero3_cpu.yaml"),
    "convert Qwen/Qwen3-VL-4B-Instruct": "convert Qwen/Qwen3-VL-4B-Instruct --samples 1",
    "probe Qwen/Qwen3-VL-4B-Instruct": "probe Qwen/Qwen3-VL-4B-Instruct --samples 1",
}


def commands() -> list[str]:
    """The lines of the README's shell blocks and transcripts that are commands, without what stands behind #."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks for line in block.splitlines() if kind == "sh" or line.startswith("$ ")]
    found = [line.removeprefix("$ ").partition(" #")[0].strip() for line in lines]
    ours = [line for line in found if line.startswith(("hf-layerprune ", "accelerate "))]
    assert not [line for line in found if line and line not in ours and not line.startswith(ELSEWHERE)]
    return ours


def records(count: int) -> bytes:
    """Questions about images of mini, as lines of JSON; the images are in them."""
    lines = []
    for number in range(count):
        example, buffer = draw_example("counting", "heal", number), io.BytesIO()
        example.image.save(buffer, "png")
        (Path(f"{number}.png")).write_bytes(buffer.getvalue())
        lines.append(json.dumps({"image": f"{number}.png", "question": example.question, "answer": example.answer}))
    return "\n".join(lines).encode()


def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) >= 14
    Path("math.jsonl").write_bytes(records(16))
    shutil.copy("math.jsonl", "photos.jsonl")
    Path("homework").mkdir()
    Image.new("RGB", (64, 64), "white").save("homework/page.png")
    text = b"\n".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}).encode() for n in range(12))
    with serve() as hub:
        put(hub, "Qwen/Qwen3-VL-4B-Instruct", content(model_path()))
        hub.datasets["lmms-lab/LLaVA-OneVision-Data"] = Repo.of({"train.jsonl": text})
        hub.accounts[TOKEN] = Account("me")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment = kept | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        converted = subprocess.run(
            [sys.executable, "-m", "hf_layerprune", "convert", "mini", "--samples", "2"], env=environment, check=False
        )
        assert converted.returncode == 0  # the README's first line, in small
        for line in found:
            small = line
            for long, short in SMALLER.items():
                small = small.replace(long, short)
            name, *arguments = shlex.split(small)
            program = ["-m", "hf_layerprune"] if name == "hf-layerprune" else ["-m", "accelerate.commands.accelerate_cli"]
            done = subprocess.run([sys.executable, *program, *arguments], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{small}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            if name == "accelerate" or "domain-aware" in line:
                shutil.rmtree("Qwen3-VL-4B-Instruct-mixed-13L-domain-aware")  # both lines write it
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "mini-mixed-13L" / "model.safetensors").read_bytes()
