"""Errors of the file system at every write, fsync and rename that a probe makes: one line, no partial file, and the next run works."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _cache_assets
from transformers import PreTrainedModel

from hf_layerprune.cli.main import main
from hf_layerprune.mini import model_path
from hf_layerprune.models import loading
from hf_layerprune.models.loading import load_model
from hf_layerprune.probing import probe as probing

OUTPUT = "out.safetensors"
Done = subprocess.CompletedProcess[str]


class Faults:
    """Stands in for the system's calls by which files are written: the one of this kind and number fails; counts them by kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "", at: int = 0, code: int = 0) -> None:
        self.kind, self.at, self.code, self.calls = kind, at, code, dict.fromkeys(KINDS, 0)
        fdopen, fsync, rename, mkdir = os.fdopen, os.fsync, os.replace, os.mkdir
        faults = self

        class Failing(io.FileIO):
            """os.write as a file object calls it, which no patch of `os` reaches."""

            def write(self, content: Any) -> int:
                faults.count("write")
                return super().write(content)

        def opened(handle: int, mode: str = "r", *rest: Any, **options: Any) -> Any:
            return io.BufferedWriter(Failing(handle, mode)) if mode == "wb" else fdopen(handle, mode, *rest, **options)

        def synced(handle: int) -> None:
            self.count("fsync")
            fsync(handle)

        def renamed(one: Any, other: Any) -> None:
            self.count("replace")
            rename(one, other)

        def made(path: Any, *rest: Any, **options: Any) -> None:
            self.count("mkdir")
            mkdir(path, *rest, **options)

        for name, function in (("fdopen", opened), ("fsync", synced), ("replace", renamed), ("mkdir", made)):
            monkeypatch.setattr(os, name, function)

    def count(self, kind: str) -> None:
        self.calls[kind] += 1
        if kind == self.kind and self.calls[kind] == self.at:
            raise OSError(self.code, os.strerror(self.code))


KINDS = ("write", "fsync", "replace", "mkdir")


@pytest.fixture(scope="module")
def mini_in_memory() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.fixture
def probe(
    here: Path, mini_in_memory: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """A function that probes mini over a picture a domain, in this process and into OUTPUT, with a given cache; every picture is kept
    at once, and the other arguments are faults."""
    monkeypatch.chdir(here)
    monkeypatch.setattr(loading, "load_model", lambda path, **options: mini_in_memory)
    monkeypatch.setattr(probing, "SAVING_SHARE", 1e9)
    monkeypatch.setattr(sys, "argv", ["hf-layerprune", "probe", "mini", "--samples", "1", "-o", OUTPUT])

    def call(cache: Path, kind: str = "", at: int = 0, code: int = 0) -> tuple[Done, dict[str, int]]:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
                for module in (_cache_assets, constants):
                    patch.setattr(module, "HF_ASSETS_CACHE", str(cache))
                faults = Faults(patch, kind, at, code)
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, out, err), faults.calls  # type: ignore[arg-type]

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_every_step_of_a_probe(tmp_path: Path, here: Path, probe: Callable[..., Any], kind: str, code: int) -> None:
    done, calls = probe(tmp_path / "whole")
    assert done.returncode == 0 and done.stderr == ""
    expected = (here / OUTPUT).read_bytes()
    (here / OUTPUT).unlink()
    # Two pictures, the finished statistics and the output; the folder of each is made durable too, where that is possible.
    assert {name: calls[name] for name in ("fsync", "replace")} == {"fsync": 8, "replace": 4} and calls["write"] >= 4 and calls["mkdir"] > 0
    failed = 0
    for at in range(1, calls[kind] + 1):
        cache = tmp_path / f"cache-{at}"
        done, _ = probe(cache, kind, at, code)
        if done.returncode:
            failed += 1
            assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
            assert os.strerror(code) in done.stderr and "fault of hf-layerprune" not in done.stderr
            assert f"error: {cache}" in done.stderr or f"error: {OUTPUT}: " in done.stderr
            assert ".tmp" not in done.stderr
            # Only what is written whole, and cannot be made durable, is there.
            there = f"error: {OUTPUT}: written, but the disk did not confirm it: " in done.stderr
            assert [path.name for path in here.iterdir()] == [OUTPUT] * there
            assert not there or (kind == "fsync" and (here / OUTPUT).read_bytes() == expected)
        for path in here.iterdir():
            path.unlink()
        names = [path.name for path in cache.rglob("*") if path.is_file()]
        assert all(name.endswith(".safetensors") and not name.startswith(".") for name in names), names
        again, _ = probe(cache)
        assert again.returncode == 0, again.stderr
        assert (here / OUTPUT).read_bytes() == expected
        (here / OUTPUT).unlink()
        assert len([path for path in cache.rglob("*") if path.is_file()]) == 1
    assert failed == calls[kind] or kind == "mkdir"  # a folder need not be made where it stands, and a probe goes on without a cache


def test_a_file_where_the_cache_should_be(tmp_path: Path, here: Path, probe: Callable[..., Any]) -> None:
    (tmp_path / "cache").write_bytes(b"")
    done, _ = probe(tmp_path / "cache")
    assert done.returncode == 0 and [path.name for path in here.iterdir()] == [OUTPUT]
    assert "nothing can be kept there: " in done.stderr and done.stderr.count("\n") == 1
    assert "Name another place with HF_HOME." in done.stderr
