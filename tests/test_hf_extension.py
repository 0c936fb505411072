"""`hf layerprune ...`: the repository as an extension of the Hugging Face CLI, installed in a temporary HOME."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = Path(sys.executable).with_name("hf-layerprune")
HF = Path(sys.executable).with_name("hf")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home where the extension is installed as `hf extensions install` records it, its description taken from manifest.json."""
    if not (SCRIPT.is_file() and HF.is_file()):
        pytest.skip("hf or hf-layerprune is not installed beside this Python")
    folder = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-layerprune"
    folder.mkdir(parents=True)
    manifest = {
        "owner": "owner",
        "repo": "hf-layerprune",
        "repo_id": "owner/hf-layerprune",
        "short_name": "layerprune",
        "executable_path": str(SCRIPT),
        "type": "python",
        "installed_at": "2026-01-01T00:00:00+00:00",
        "description": json.loads((ROOT / "manifest.json").read_text())["description"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def hf(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    offline = {"HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run([str(HF), *arguments], env=kept | offline, cwd=home, capture_output=True, text=True, timeout=600)


def test_help(home: Path) -> None:
    done = hf(home, "layerprune", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: hf-layerprune ") and "  convert " in done.stdout and "  push " in done.stdout


def test_it_is_listed(home: Path) -> None:
    assert "layerprune" in hf(home, "--help").stdout
    assert "owner/hf-layerprune" in hf(home, "extensions", "list").stdout


def test_a_command_and_its_exit_code(home: Path) -> None:
    assert hf(home, "layerprune", "inspect", "mini").stdout.startswith("mini · qwen3_vl · 16 decoder layers")
    assert hf(home, "layerprune", "inspect").returncode == 2
    done = hf(home, "layerprune", "convert", "mini", "--layers", "5", "-o", "out")
    assert done.returncode == 0 and (home / "out" / "layerprune" / "plan.json").is_file()


def test_what_hf_expects_of_the_repository() -> None:
    assert not (ROOT / "hf-layerprune").exists(), "a file of that name would be taken for the executable"
    assert json.loads((ROOT / "manifest.json").read_text())["description"]
    assert shutil.which("pip") is None or "hf-layerprune = hf_layerprune.cli.main:run" in (ROOT / "setup.cfg").read_text()
