"""--help: answers at once, without the heavy libraries, and shows two real examples of every command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hf_layerprune.cli.main import COMMANDS

HELP = """
import atexit, json, resource, sys
def report():
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([used.ru_utime + used.ru_stime, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
atexit.register(report)
from hf_layerprune.cli.main import main
main()
"""
HEAVY = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors", "tqdm", "jaxtyping"}


def ask(environment: dict[str, str], *arguments: str) -> tuple[str, float, set[str]]:
    command = [sys.executable, "-c", HELP, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seconds, modules = json.loads(done.stderr.splitlines()[-1])
    return done.stdout, seconds, set(modules)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light(environment: dict[str, str], command: str) -> None:
    """Processor time, so that a busy machine does not fail it."""
    text, seconds, modules = ask(environment, *command.split(), "--help")
    assert "click" in modules and not modules & HEAVY
    assert seconds < 0.3
    assert text.startswith(f"Usage: hf-layerprune {command}".rstrip()) and max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_end_a_commands_help(environment: dict[str, str], command: str) -> None:
    text, _, _ = ask(environment, command, "-h")
    lines = text.rstrip().splitlines()
    assert [line.strip() for line in lines].index("Examples:") == len(lines) - 3
    assert all(line.strip().startswith(f"hf-layerprune {command}") for line in lines[-2:])
    for option in ("--json", "-q, --quiet", "--debug"):
        assert option in text


def test_commands_stand_in_the_order_of_use(environment: dict[str, str]) -> None:
    text, _, _ = ask(environment, "--help")
    listed = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
    journey = ["inspect", "convert", "probe", "plan", "apply", "heal", "evaluate", "card", "push", "verify"]
    assert listed == [*journey, "strategies", "recipes", "env"]


def test_version(environment: dict[str, str]) -> None:
    text, _, modules = ask(environment, "--version")
    assert text.startswith("hf-layerprune, version ") and not modules & HEAVY
