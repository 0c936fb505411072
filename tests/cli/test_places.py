"""Where commands write: folders that are yet to be made, places that are refused, a cache that cannot be written, interrupted work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hf_layerprune.healing.heal as healing
from hf_layerprune import LayerPruner
from tests.checkpoint.independent import snapshot
from tests.tiny_checkpoint import make_checkpoint

Run = Any
WRITING = (  # each with what it writes
    ("convert source --layers 3 -o {place}", "config.json"),
    ("plan source --layers 3 -o {place}", ""),
    ("probe mini --samples 2 -o {place}", ""),
    ("apply source plan.json -o {place}", "config.json"),
    ("evaluate mini --samples 1 --tasks mini-general -o {place}", "eval.json"),
    ("card short -o {place}", ""),
)


@pytest.fixture
def source(here: Path, run_in_process: Run, pruned: Path) -> Path:
    """A tiny checkpoint, a plan for it and a pruned mini in the folder that commands run in."""
    place = make_checkpoint(here / "source")
    assert run_in_process("plan", "source", "--layers", "3", "-o", "plan.json").returncode == 0
    shutil.copytree(pruned, here / "short")
    return place


@pytest.mark.parametrize(("line", "written"), WRITING)
def test_missing_folders_are_made(run: Run, here: Path, source: Path, line: str, written: str) -> None:
    done = run(*line.format(place="new/folders/out").split())
    assert done.returncode == 0 and (here / "new/folders/out" / written).exists(), done.stderr


def test_save_pretrained_makes_its_folders(here: Path, source: Path) -> None:
    pruner = LayerPruner.from_pretrained(source, statistics_folder=None)
    pruner.prune(layers=[3])
    pruner.save_pretrained(here / "new/folders/out")
    assert (here / "new/folders/out/config.json").is_file()


def test_folders_that_were_made_go_where_the_work_fails(here: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that were there, nor one that something else was put into meanwhile."""
    pruner = LayerPruner.from_pretrained(source, statistics_folder=None)
    pruner.prune(layers=[3])
    (here / "old").mkdir()

    def put_and_fail(*arguments: object) -> Any:
        (here / "old/new/kept").touch()
        raise OSError(28, "No space left on device")

    for fail, left in ((lambda *arguments: 1 / 0, ["old"]), (put_and_fail, ["old", "old/new", "old/new/kept"])):
        monkeypatch.setattr("hf_layerprune.checkpoint.rewrite.write_shard", fail)
        with pytest.raises((ZeroDivisionError, Exception)):
            pruner.save_pretrained(here / "old/new/folders/out")
        assert sorted(path.relative_to(here).as_posix() for path in (here / "old").rglob("*")) == left[1:]


@pytest.mark.parametrize(("line", "written"), WRITING)
def test_no_output_in_a_model_of_ours(run_in_process: Run, here: Path, source: Path, line: str, written: str) -> None:
    before = snapshot(here)
    for place in ("short/out", "short/layerprune/out", "short/new/out"):
        done = run_in_process(*line.format(place=place).split())
        assert done.returncode == 1 and re.search(r"lies in .*short, a model that hf-layerprune wrote", done.stderr), done.stderr
    assert snapshot(here) == before and run_in_process("verify", "short").returncode == 0


@pytest.mark.parametrize("home", ["/proc/none", "file/home"], ids=["no folder", "a file in its way"])
def test_a_cache_that_cannot_be_written(run: Run, here: Path, source: Path, home: str) -> None:
    """Is a warning where something would have been kept, and silence elsewhere."""
    (here / "file").touch()
    for line, warns in (
        ("convert mini --samples 1 --dry-run", True),
        ("convert source --layers 3 --dry-run", False),
        ("evaluate mini --samples 1 --tasks mini-general -o scores", True),
        ("inspect mini", False),
        ("verify short --source mini", False),
    ):
        done = run(*line.split(), HF_HOME=str(here / home))
        assert done.returncode == 0, done.stderr
        said = re.fullmatch(r"warning: .*nothing can be kept there: .*HF_HOME\. This run goes on without keeping anything\.\n", done.stderr)
        assert bool(said) is warns and (warns or not done.stderr)


def test_a_cache_that_may_not_be_written_in_python(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(here))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.warns(UserWarning, match="nothing can be kept there: Permission denied"):
        LayerPruner.from_pretrained("mini")


@pytest.mark.parametrize("line", ["verify mini", "verify mini/", "card mini", "push mini me/mini"])
def test_mini_is_a_source(run_in_process: Run, line: str) -> None:
    done = run_in_process(*line.split())
    assert done.returncode == 1 and "mini is the model that comes with hf-layerprune" in done.stderr
    assert "hf-layerprune convert mini" in done.stderr


HEAL = "heal short --recipe interlace --data mini,count=8 --set batch_size=2 --set max_length=512 --save-steps 2 -o new/healed"
INTERRUPTED = (  # after so many steps, what is said
    (1, r"1 step is lost, as the first save comes after 2 \(--save-steps\); run the same command again and it begins anew\."),
    (3, r"2 steps are kept in (new/\.layerprune-\w+\.healing), 1 step is lost; .* goes on from there\."),
)


@pytest.mark.parametrize(("steps", "said"), INTERRUPTED)
def test_an_interrupted_healing_says_what_is_lost(
    run_in_process: Run, here: Path, source: Path, monkeypatch: pytest.MonkeyPatch, steps: int, said: str
) -> None:
    """The interrupt comes when a step is done; what is kept is what the next run goes on from, and nothing else stays."""
    whole = healing.heal

    def interrupted(request: Any, *, progress: Callable[[Any, int, int], None], **told: Any) -> Any:
        def stepped(step: Any, done: int, total: int) -> None:
            progress(step, done, total)
            if done == steps:
                raise KeyboardInterrupt

        return whole(request, progress=stepped, **told)

    with monkeypatch.context() as patch:
        patch.setattr(healing, "heal", interrupted)
        done = run_in_process(*HEAL.split(), "--json")
    assert done.returncode == 130
    found = re.fullmatch(said, json.loads(done.stdout)["error"]["message"])
    assert found, done.stdout
    kept = [*found.groups()]
    assert (here / kept[0]).is_dir() if kept else not (here / "new").exists()
    again = run_in_process(*HEAL.split())
    assert again.returncode == 0 and ("2 of 4 steps are done" in again.stderr) == bool(kept), again.stderr
    assert [path.name for path in (here / "new").iterdir()] == ["healed"]
