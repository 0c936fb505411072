"""What the pins share: the comparison with what was recorded, and mini's statistics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _cache_assets

from tests.hub.loopback import LoopbackHub, only_hub, serve
from tests.hub.state import Account
from tests.pins.commands import Done, Pinned, differences, run
from tests.pins.static_checkpoint import write_dense

HERE = Path(__file__).parent
RECORDING = "RECORD_PINS" in os.environ  # as record.py has it
STATISTICS = HERE / "statistics.safetensors"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is kept in a folder of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("assets")
        for module in (_cache_assets, constants):
            patch.setattr(module, "HF_ASSETS_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Sums in one order, where a model runs."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pinned(request: pytest.FixtureRequest) -> Iterator[Pinned]:
    """A function that compares a value with what NAME.json of this test_NAME.py holds under a key; or, recording, puts it there."""
    path = HERE / f"{request.path.stem.removeprefix('test_')}.json"
    recorded = {} if RECORDING else json.loads(path.read_text())

    def compare(key: str, value: Any) -> None:
        if RECORDING:
            recorded[key] = value
        assert key in recorded, f"{path.name} has no {key!r}"
        assert not (found := differences(json.loads(json.dumps(value)), recorded[key])), "\n".join(found)

    yield compare
    if RECORDING:
        path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="session")
def probed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Statistics of mini over four synthetic images a domain, measured now, and what the command said."""
    folder = tmp_path_factory.mktemp("probed")
    done = run(folder, "probe", "mini", "--samples", "4", "--dtype", "float32", "--device", "cpu", "-o", "statistics.safetensors", "--json")
    assert done.code == 0, done.err
    if RECORDING:
        shutil.copyfile(folder / "statistics.safetensors", STATISTICS)
    return folder / "statistics.safetensors", done


@pytest.fixture(scope="session")
def statistics(request: pytest.FixtureRequest) -> Path:
    """Those that were recorded: whatever is planned from them is the same on every machine."""
    if RECORDING:
        request.getfixturevalue("probed")
    return STATISTICS


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub that this process takes for the only one, where `me` has an account and is logged in."""
    token = "hf_" + "me" * 17
    with serve() as server, only_hub(server, tmp_path_factory.mktemp("cache")), pytest.MonkeyPatch.context() as patch:
        server.accounts = {token: Account("me")}
        patch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("login") / "none"))
        patch.setenv("HF_TOKEN", token)
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of six layers in one file, tied, in the folder that commands run in."""
    return write_dense(tmp_path / "here/source")
