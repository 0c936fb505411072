"""What the checkpoint room refuses, as a command says it: exit code 1, one line that names the fault, nothing written."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.independent import snapshot
from tests.checkpoint.test_bad_input import CONFIGS as DEPTHS_AND_LISTS
from tests.checkpoint.test_header import HEADERS, LENGTHS, tensor, write
from tests.checkpoint.test_open import CONFIGS, SIDES
from tests.checkpoint.test_weights import SECOND, SHARDS
from tests.tiny_checkpoint import make_checkpoint, make_config

Run = Callable[..., "subprocess.CompletedProcess[str]"]
WEIGHTS = "model.safetensors"


def announced(folder: Path, length: int) -> None:
    """A weight file of 74 bytes that announces a header of some other length."""
    path = write(folder / WEIGHTS, {"a": tensor()}, b"1234", length)
    path.write_bytes(path.read_bytes().ljust(74, b" ")[:74])


def shard(folder: Path, make: Callable[[Path], object]) -> None:
    (folder / WEIGHTS).unlink()
    make_checkpoint(folder, tied=False, shards=3)
    (folder / SECOND).unlink()
    make(folder / SECOND)


def text_section(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = make_config()
    change(config["text_config"])
    (folder / "config.json").write_text(json.dumps(config))


def config(folder: Path, content: bytes | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)


def side_file(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    (folder.parent / "other.txt").touch()
    make(folder / name)


ROWS: dict[str, tuple[Callable[..., object], tuple[Any, ...], str]] = {
    **{f"length {name}": (announced, (length,), message) for name, (length, message) in LENGTHS.items()},
    **{
        f"header {name}": (lambda folder, header: write(folder / WEIGHTS, header, b"1234"), (header,), message)
        for name, (header, message) in HEADERS.items()
    },
    **{f"shard {name}": (shard, (make,), message) for name, (make, message) in SHARDS.items()},
    **{f"text section {name}": (text_section, (change,), message) for name, (change, message, _) in DEPTHS_AND_LISTS.items()},
    **{f"config {name}": (config, (content,), message) for name, (content, message) in CONFIGS.items()},
    **{f"side file {name}": (side_file, (path, make), message) for name, (path, make, message) in SIDES.items()},
}


@pytest.mark.parametrize(("spoil", "arguments", "message"), ROWS.values(), ids=ROWS)
def test_a_source_that_is_refused(
    run_here: Run, here: Path, tmp_path: Path, spoil: Callable[..., object], arguments: tuple[Any, ...], message: str
) -> None:
    source = make_checkpoint(tmp_path / "source")
    spoil(source, *arguments)
    before = snapshot(source)
    done = run_here("convert", source, "--layers", "3", "-o", "out")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert re.search(message, done.stderr) and "fault of hf-layerprune" not in done.stderr, done.stderr
    assert not list(here.iterdir()) and snapshot(source) == before
