from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hf_layerprune
from hf_layerprune import LayerPruner
from hf_layerprune.cli.main import main
from hf_layerprune.mini import model_path
from tests.hub.loopback import LoopbackHub, only_hub, serve
from tests.hub.models import PRUNED, SOURCE, content, put
from tests.hub.state import Files

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For processes of ours: this package, a Hugging Face cache of their own, no network, one thread, no colours asked for."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "NO_COLOR", "FORCE_COLOR"))}
    return kept | {
        "PYTHONPATH": str(Path(hf_layerprune.__file__).parents[1]),
        "HF_HOME": str(tmp_path_factory.mktemp("hf-home")),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture(scope="session")
def statistics(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of mini over two pictures a domain, measured by the command itself; the cache holds them from then on too."""
    folder = tmp_path_factory.mktemp("probed")
    command = [sys.executable, "-m", "hf_layerprune", "probe", "mini", "--samples", "2", "-o", "statistics.safetensors"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder / "statistics.safetensors"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that commands run in, empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def run(environment: dict[str, str], here: Path) -> Run:
    """A function that runs `hf-layerprune ARGUMENTS` in a process of its own; keywords are environment variables."""

    def call(*arguments: object, **variables: str) -> Done:
        command = [sys.executable, "-m", "hf_layerprune", *map(str, arguments)]
        return subprocess.run(command, cwd=here, env=environment | variables, capture_output=True, text=True, timeout=900)

    return call


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from hf_layerprune.cli.main import main
main()
"""


@pytest.fixture
def run_without_torch(environment: dict[str, str], here: Path) -> Run:
    """As `run`, in a process where importing torch or transformers fails."""

    def call(*arguments: object) -> Done:
        command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=900)

    return call


@pytest.fixture
def run_here(run_in_process: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `run_without_torch`, in this process, which is much faster: for what is refused before anything is measured."""

    def call(*arguments: object) -> Done:
        for name in ("torch", "transformers", "hf_layerprune.probing.probe"):
            monkeypatch.setitem(sys.modules, name, None)
        return run_in_process(*arguments)

    return call


@pytest.fixture
def run_in_process(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs `hf-layerprune ARGUMENTS` in the folder `here`, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "argv", ["hf-layerprune", *map(str, arguments)])
        for logger in logging.getLogger("huggingface_hub").handlers:  # made under an earlier test's stderr, which is closed
            monkeypatch.setattr(logger, "stream", sys.stderr, raising=False)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, out, err)  # type: ignore[arg-type]

    return call


@pytest.fixture(scope="session")
def pruned(statistics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `LayerPruner` made of mini without layers 4 and 9, by hand. Read only."""
    folder = tmp_path_factory.mktemp("by-hand") / "short"
    pruner = LayerPruner.from_pretrained("mini", statistics_folder=None)
    pruner.prune(layers="4,9")
    pruner.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """mini as a model of somebody's."""
    with serve() as server, only_hub(server, tmp_path_factory.mktemp("cache")):
        put(server, SOURCE, content(model_path()))
        yield server


@pytest.fixture
def published(hub: LoopbackHub, statistics: Path, here: Path, run_here: Run) -> Files:
    """A model that was pruned of mini by its statistics and pushed with them; the folder is gone."""
    for line in (
        f"plan {statistics} --method mixed --budget 0.25 -o plan.json",
        f"apply mini plan.json --statistics {statistics} -o short",
    ):
        assert run_here(*line.split()).returncode == 0
    files = content(here / "short")
    put(hub, PRUNED, files)
    for path in sorted(here.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    hub.sent.clear()
    return files


@pytest.fixture
def asked(hub: LoopbackHub) -> Callable[[str], int]:
    """A function that says how many bytes were sent of a file since the test began."""
    hub.sent.clear()
    return lambda name: sum(sent for path, _, sent in hub.sent if path == name)
