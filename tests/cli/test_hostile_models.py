"""Models with code of their own, hostile chat templates and impossible depths, as the commands meet them: one line, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.utils import _cache_assets
from transformers import PreTrainedModel

from hf_layerprune.mini import model_path
from hf_layerprune.models import loading
from hf_layerprune.models.loading import load_model

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_inside(run_in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs `hf-layerprune ARGUMENTS` in this process, with a cache of its own for what is kept between runs."""
    monkeypatch.setattr(_cache_assets, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return run_in_process


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of mini, to be spoilt, with a module that leaves a mark when it is imported."""
    folder = tmp_path / "stranger"
    shutil.copytree(model_path(), folder)
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    return folder


def change(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


# --- code of their own ----------------------------------------------------------------------------------------------------

EVIL: dict[str, dict[str, Any]] = {
    "config.json": {"auto_map": {"AutoConfig": "modeling.Evil", "AutoModelForImageTextToText": "modeling.Evil"}},
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["modeling.Evil", None]}},
    "preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "modeling.Evil", "AutoProcessor": "modeling.Evil"}},
    "video_preprocessor_config.json": {"auto_map": {"AutoVideoProcessor": "modeling.Evil"}},
    "processor_config.json": {
        "processor_class": "Qwen3VLProcessor",
        "image_processor": {"auto_map": {"AutoImageProcessor": "modeling.Evil"}},
    },
}
RUNNING: dict[str, tuple[str, ...]] = {
    "probe": ("probe", "{}", "--samples", "1", "-o", "out"),
    "convert": ("convert", "{}", "--method", "math", "--samples", "1", "-o", "out"),
    "heal by layers": ("heal", "{}", "--recipe", "interlace", "--tune-last", "2", "-o", "out"),
    "heal by adapters": ("heal", "{}", "-o", "out"),
    "evaluate": ("evaluate", "{}", "--samples", "1", "-o", "out"),
    "evaluate against": ("evaluate", "mini", "--against", "{}", "--samples", "1", "-o", "out"),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("arguments", RUNNING.values(), ids=RUNNING)
def test_code_of_its_own_is_refused_before_anything_is_loaded(
    run_inside: Run, here: Path, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], name: str
) -> None:
    change(model / name, **EVIL[name])
    for kind in (transformers.AutoModelForImageTextToText, transformers.AutoProcessor):
        monkeypatch.setattr(kind, "from_pretrained", lambda *args, **options: pytest.fail("it was loaded"))
    done = run_inside(*(argument.format(model) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {model / name} names code of its own ('auto_map'), which hf-layerprune does not run. "
        "Remove the key if transformers knows the model without it.\n"
    )
    assert not list(here.iterdir()) and not (model.parent / "ran").exists()


def test_code_of_its_own_travels_with_a_conversion(run_here: Run, here: Path, model: Path) -> None:
    """By a plan and by hand, where the model is not run: everything arrives as it was."""
    for name, values in EVIL.items():
        change(model / name, **values)
    for command in (
        ("plan", model, "--method", "random", "-o", "plan.json"),
        ("apply", model, "plan.json", "-o", "applied"),
        ("convert", model, "--layers", "4,9", "-o", "by-hand"),
        ("verify", "applied", "--source", model),
        ("verify", "by-hand", "--source", model),
    ):
        done = run_here(*command)
        assert done.returncode == 0, done.stderr
    for output in (here / "applied", here / "by-hand"):
        assert json.loads((output / "config.json").read_text())["auto_map"] == EVIL["config.json"]["auto_map"]
        for name in ("modeling.py", *EVIL.keys() - {"config.json"}):
            assert (output / name).read_bytes() == (model / name).read_bytes()
    assert not (model.parent / "ran").exists()


UNREADABLE = {"list": "[]", "cut": "{", "number": "7", "text": '"x"', "deep": '{"a": ' * 100_000, "no text": "\udcff", "nothing": ""}
PARTS = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json", "tokenizer.json")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_part_that_cannot_be_read(run_inside: Run, here: Path, model: Path, name: str, content: str) -> None:
    """Looking for code in it does no harm, and whoever loads it says what is wrong."""
    (model / name).write_text(content, errors="surrogateescape")
    done = run_inside("probe", model, "--samples", "1", "--no-cache", "-o", "out")
    if name == "generation_config.json" and not done.returncode:  # a probe generates nothing, and transformers overlooks some of these
        assert done.stderr == "" and [path.name for path in here.iterdir()] == ["out"]
        return
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "fault of hf-layerprune" not in done.stderr and str(model) in done.stderr, done.stderr
    assert not list(here.iterdir())


# --- chat templates -------------------------------------------------------------------------------------------------------

TEMPLATES: dict[str, tuple[str, str]] = {
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "globals": ("{{ cycler.__init__.__globals__.os.system('touch MARK') }}", "unsafe"),
    "globals of a macro": ("{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}", "unsafe"),
    "format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "unsafe"),
    "format_map": ("{{ '{a.__init__.__globals__}'.format_map({'a': cycler}) }}", "unsafe"),
    "changing what it is given": ("{{ messages.append(1) }}", "unsafe"),
    "attribute by filter": ("{{ (messages | attr('__class__')).__mro__ }}", "unsafe"),
    "a loop of a billion": ("{% for i in range(1000000000) %}x{% endfor %}", "Range too big"),
    "include": ("{% include '/etc/passwd' %}", "no loader"),
    "import": ("{% import '/etc/passwd' as p %}{{ p }}", "no loader"),
    "extends": ("{% extends '../../etc/passwd' %}", "no loader"),
    "no template": ("{% for", "template"),
    "a number by nothing": ("{{ 1 / 0 }}", "division by zero"),
    "itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "several lines": ("{{ raise_exception('one\\ntwo') }}", "one"),
}


@pytest.fixture(scope="module")
def mini_in_memory() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.fixture
def loaded_once(mini_in_memory: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is mini's, whatever else of the folder was spoilt."""
    monkeypatch.setattr(loading, "load_model", lambda path, **options: mini_in_memory)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("template", "reason"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_hostile_template(run_inside: Run, here: Path, model: Path, template: str, reason: str) -> None:
    """It runs in transformers' sandbox, where it reaches neither attributes nor files; the probe ends with one line."""
    mark = model.parent / "mark"
    (model / "chat_template.jinja").write_text(template.replace("MARK", str(mark)))
    done = run_inside("probe", model, "--samples", "1", "-o", "out.safetensors")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: the checkpoint's chat template cannot be used: ") and reason in done.stderr
    assert "root:" not in done.stderr and not mark.exists() and not list(here.iterdir())


@pytest.mark.usefixtures("loaded_once")
def test_a_template_that_leaves_the_picture_out(run_inside: Run, here: Path, model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages[0]['role'] }}")
    done = run_inside("probe", model, "--samples", "1", "-o", "out.safetensors")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "fault of hf-layerprune" not in done.stderr and not list(here.iterdir())


# --- impossible depths ----------------------------------------------------------------------------------------------------

DEPTHS = {"inspect": ("inspect", "{}"), "plan": ("plan", "{}", "--method", "random", "-o", "out"), **RUNNING}
DEPTHS["by hand"] = ("convert", "{}", "--layers", "1", "-o", "out")


@pytest.mark.parametrize("depth", [1, 0, -1, 10**9])
@pytest.mark.parametrize("arguments", DEPTHS.values(), ids=DEPTHS)
def test_an_impossible_depth(run_here: Run, here: Path, model: Path, arguments: tuple[str, ...], depth: int) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = depth
    (model / "config.json").write_text(json.dumps(config))
    done = run_here(*(argument.format(model) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {model / 'config.json'}: 'text_config.num_hidden_layers' is {depth}, expected a whole number from 3 to 10,000. "
        "The tensors hold 16 layers.\n"
    )
    assert not list(here.iterdir())
