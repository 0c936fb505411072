"""`hf-layerprune env`: what a report of a fault must say of the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting

PACKAGES = (
    "hf-layerprune",
    "torch",
    "torchvision",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pillow",
    "peft",
    "accelerate",
    "deepspeed",
    "datasets",
    "matplotlib",
)


@click.command(
    short_help="Show versions and devices, for reports of faults.",
    epilog=options.examples("hf-layerprune env", "hf-layerprune env --json"),
)
@reporting
def env(console: Console) -> None:
    """Show the versions of what hf-layerprune runs on, the devices that it finds, and where it keeps results. No token is shown."""
    from huggingface_hub import constants

    from hf_layerprune.artifacts.jsonfile import kept_folder

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "results": str(kept_folder("statistics").parent),
        "offline": bool(constants.is_offline_mode()),
    }
    console.say(f"{'python':<16} {found['python']} on {found['platform']}")
    for name, number in found["packages"].items():
        console.say(f"{name:<16} {number or 'not installed'}")
    for line in found["devices"]:
        console.say(f"{'device':<16} {line}")
    console.say(f"{'results':<16} {found['results']}")
    console.say(f"{'Hub':<16} {'offline (HF_HUB_OFFLINE)' if found['offline'] else constants.ENDPOINT}")
    console.result(found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    """The devices that torch finds, with their memory; why none can be told where torch does not even load."""
    try:
        import torch

        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found = [f"cuda:{number} {gpu.name}, {gpu.total_memory / 1e9:.1f} GB" for number, gpu in enumerate(gpus)]
        found += ["mps"] * torch.backends.mps.is_available()
    except Exception as error:  # a broken installation is what such a report is about
        return [f"torch cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return [*found, f"cpu, {os.cpu_count()} cores, {pages / 1e9:.1f} GB"]
