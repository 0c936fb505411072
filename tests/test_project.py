"""What surrounds the code: the API reference, the packaging, the files that such a project has, and where the README leads."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_layerprune

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from hf_layerprune.cli.main import run; sys.argv[0] = 'hf-layerprune'; run()"


def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_api_reference(tmp_path: Path) -> None:
    """Every public name has its entry, built without network and without a warning."""
    built = subprocess.run(
        [sys.executable, ROOT / "examples" / "api_reference.py", tmp_path / "reference"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0 and not built.stderr, built.stderr
    page = (tmp_path / "reference" / "hf_layerprune.html").read_text()
    missing = [name for name in hf_layerprune.__all__ if f'id="{name}"' not in page and name != "__version__"]
    assert not missing and 'id="LayerPruner.prune"' in page


def test_one_version_and_valid_files() -> None:
    setup, citation = metadata(), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert setup["metadata"]["version"] == hf_layerprune.__version__ == citation["version"]
    assert {reference["url"].rpartition("/")[2] for reference in citation["references"]} == {"2603.20275", "2511.19676"}
    for name in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(name.read_text()), name
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "CHANGELOG.md"):
        assert (ROOT / name).stat().st_size > 300, name


def test_deepspeed_is_in_an_extra_of_its_own() -> None:
    extras = metadata()["options.extras_require"]
    assert (
        "deepspeed" not in extras["train"]
        and "deepspeed" in extras["zero3"]
        and "%(zero3)s" in metadata().get("options.extras_require", "dev", raw=True)
    )


def test_versions_and_devices(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hf_layerprune", "env", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"},
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and "hf_secret" not in done.stdout and found["offline"] is True
    assert found["packages"]["transformers"] and found["packages"]["torchvision"] is None and found["devices"][-1].startswith("cpu, ")


def test_a_broken_torch_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "env"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "torch cannot be loaded: " in done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """click's own script, which calls the command by its name."""
    done = subprocess.run(
        [sys.executable, "-c", "from hf_layerprune.cli.main import run; run()"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "_HF_LAYERPRUNE_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "_HF_LAYERPRUNE_COMPLETE" in done.stdout, done.stderr


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    places = [place for place in re.findall(r"\]\(([^)#]+)\)|src(?:set)?=\"([^\"]+)\"", text) for place in place if place]
    assert len(places) > 10
    assert not [place for place in places if "://" not in place and not (ROOT / place).exists()]
