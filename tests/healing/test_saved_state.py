"""What a disk does while a state is saved: the one before stays, and the message says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.healing_record import HealingRecord
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.healing.heal import heal
from hf_layerprune.healing.options import HealOptions
from hf_layerprune.healing.request import resolve
from hf_layerprune.healing.training import saved_states

SETTINGS = {"batch_size": 4, "precision": "fp32", "learning_rate": 1e-3}


def run(pruned: Path, output: Path, seed: int = 0, **told: Any) -> HealingRecord:
    asked = HealOptions("interlace", SETTINGS, data="mini,count=16", seed=seed, save_steps=1, device="cpu")
    return heal(resolve(Checkpoint.open(pruned, "mini-13L"), output, asked, None), **told)[0]


@pytest.mark.parametrize("call", ["rename", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_mid_run(pruned_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    whole = tmp_path / "whole" / "out"
    whole.parent.mkdir()
    run(pruned_mini, whole)
    output = tmp_path / "out"
    work = hidden_beside(output, "healing")
    real: Callable[..., Any] = getattr(os, call)

    def failing(*arguments: Any) -> Any:
        if saved_states(work):  # the first state is kept, the second one fails
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(LayerPruneError, match=rf"{os.strerror(number)}.*(again|disk|space)"):
            run(pruned_mini, output)
    assert not output.exists() and [state.name for state in saved_states(work)] == ["step-00000001"]
    lines: list[str] = []
    record = run(pruned_mini, output, say=lines.append)
    assert record.resumed and lines == ["going on with an interrupted healing: 1 of 4 steps are done"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_other_settings_begin_anew(pruned_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("hf_layerprune.healing.heal.collect", interrupted)
        run(pruned_mini, output)
    assert saved_states(hidden_beside(output, "healing"))
    lines: list[str] = []
    record = run(pruned_mini, output, seed=1, say=lines.append)
    assert lines == ["an interrupted healing with other data or settings is discarded"] and not record.resumed


def test_a_healing_that_died_while_writing_does_not_train_again(pruned_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("hf_layerprune.healing.heal._write", interrupted)
        run(pruned_mini, output)
    steps: list[int] = []
    record = run(pruned_mini, output, progress=lambda step, done, total: steps.append(done))
    assert steps == [] and record.steps == 4 and (tmp_path / "out" / "config.json").is_file()


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt
