"""Models without a tokenizer, image processor or chat template: said before anything is loaded, and taken from another with --processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from hf_layerprune import LayerPruner
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.errors import ModelError, UsageError
from hf_layerprune.mini import model_path

Run = Any
PARTS = {
    "tokenizer (tokenizer.json)": ("tokenizer.json", "tokenizer_config.json"),
    "image processor (preprocessor_config.json)": ("preprocessor_config.json", "video_preprocessor_config.json"),
    "chat template (chat_template.jinja)": ("chat_template.jinja",),
}
COMMANDS = {
    "probe": ("--samples", "1", "--no-cache", "-o", "statistics.safetensors"),
    "evaluate": ("--tasks", "mini-math", "--samples", "5"),
    "heal": ("--recipe", "interlace", "--tune-last", "1", "--data", "mini,count=32", "-o", "healed"),
    "convert": ("--method", "math", "--samples", "1", "--no-cache", "-o", "pruned"),
}


def without(folder: Path, *parts: str) -> Path:
    """A copy of mini that lacks some parts, with a card that names the model it was made from."""
    shutil.copytree(model_path(), folder)
    for name in (name for part in parts for name in PARTS[part]):
        (folder / name).unlink()
    (folder / "README.md").write_text("---\nbase_model: someone/some-vlm\n---\n# tuned\n")
    return folder


TOKENIZER, *OTHERS = PARTS


@pytest.mark.parametrize(("command", "part"), [*((command, TOKENIZER) for command in COMMANDS), *(("probe", part) for part in OTHERS)])
def test_what_is_missing_is_said_and_can_be_taken_from_another_model(run: Run, here: Path, part: str, command: str) -> None:
    """The remedy that is printed is followed, with mini under the name that the card gives."""
    without(here / "tuned", part)
    refused = run(command, "tuned", *COMMANDS[command])
    assert refused.returncode == 1 and refused.stderr.count("\n") <= 2, refused.stderr
    assert f"tuned: no {part}, without which" in refused.stderr
    assert "Copy the files from someone/some-vlm, or add --processor someone/some-vlm." in refused.stderr
    assert sorted(path.name for path in here.iterdir()) == ["tuned"]
    shutil.copytree(model_path(), here / "someone" / "some-vlm")
    done = run(command, "tuned", *COMMANDS[command], "--processor", "someone/some-vlm")
    assert done.returncode == 0, done.stderr
    assert f"{PARTS[part][0]}" in done.stderr and "from some-vlm" in done.stderr


def test_what_was_borrowed_is_written_and_proved(run: Run, here: Path) -> None:
    """The output is a model of its own: it loads, verifies against its source, and its manifest names the lender."""
    source = without(here / "tuned", *PARTS)
    done = run("convert", "tuned", "--layers", "4,5", "-o", "pruned", "--processor", "mini")
    assert done.returncode == 0, done.stderr
    names = [name for part in PARTS.values() for name in part]
    assert Manifest.load(here / "pruned" / "layerprune" / "manifest.json").borrowed == dict.fromkeys(sorted(names), "mini")
    assert all((here / "pruned" / name).read_bytes() == (model_path() / name).read_bytes() for name in names)
    assert run("verify", "pruned", "--source", "tuned", "--deep").returncode == 0
    assert not any((source / name).exists() for name in names)
    _, info = AutoModelForImageTextToText.from_pretrained(here / "pruned", output_loading_info=True)
    assert not any(info.values()) and AutoTokenizer.from_pretrained(here / "pruned")("a").input_ids
    assert run("evaluate", "pruned", "--tasks", "mini-math", "--samples", "5").returncode == 0
    (here / "pruned" / "tokenizer.json").write_text("{}")
    assert run("verify", "pruned", "--source", "tuned").returncode == 1


def test_an_output_without_a_tokenizer_is_said(run: Run, here: Path) -> None:
    without(here / "tuned", "tokenizer (tokenizer.json)")
    done = run("convert", "tuned", "--layers", "4,5", "-o", "pruned")
    assert done.returncode == 0 and "note: the output has no more than its source" in done.stderr
    assert "no tokenizer (tokenizer.json)" in done.stderr and "--processor someone/some-vlm" in done.stderr


def test_its_own_files_stay(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mini has a tokenizer, an image processor and a chat template of its own: leave processor out"):
        LayerPruner.from_pretrained("mini", processor="mini")
    source = without(tmp_path / "tuned", "chat template (chat_template.jinja)")
    settings = json.loads((source / "preprocessor_config.json").read_bytes()) | {"note": "its own"}
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    pruner = LayerPruner.from_pretrained(source, processor="mini", statistics_folder=None)
    assert list(pruner.checkpoint.borrowed) == [Path("chat_template.jinja")]
    other = without(tmp_path / "other", "chat template (chat_template.jinja)")
    with pytest.raises(ModelError, match=r"other: no chat template \(chat_template.jinja\) to take from there"):
        LayerPruner.from_pretrained(source, processor=other)


def test_a_processor_of_another_kind_of_model(tmp_path: Path) -> None:
    """Its image token is not the one that the model reads: refused before the weights are loaded."""
    source = without(tmp_path / "tuned", *PARTS)
    config = json.loads((source / "config.json").read_bytes()) | {"image_token_id": 9}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the processor writes the image token \d+, and the model reads 9"):
        LayerPruner.from_pretrained(source, processor="mini", statistics_folder=None).probe(samples=1)


def test_spread_over_a_device_and_the_disk(run: Run, here: Path) -> None:
    """A device map leaves no number as it was but by rounding; here nothing is even rounded."""
    names = [f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")]
    layers = {f"model.language_model.layers.{layer}": "disk" if layer > 8 else "cpu" for layer in range(16)}
    (here / "map.json").write_text(json.dumps({**dict.fromkeys(["model.visual", "lm_head", *names], "cpu"), **layers}))
    one = run("evaluate", "mini", "--tasks", "mini-general", "--samples", "8", "-o", "one", "--json")
    two = run("evaluate", "mini", "--tasks", "mini-general", "--samples", "8", "-o", "two", "--json", "--device-map", "map.json")
    assert one.returncode == two.returncode == 0, two.stderr
    scores = [json.loads(done.stdout)["scores"] for done in (one, two)]
    assert scores[0] == scores[1]
    plain, spread = (
        LayerPruner.from_pretrained("mini", statistics_folder=None).probe(samples=1, device_map=device_map)
        for device_map in (None, str(here / "map.json"))
    )
    assert torch.equal(torch.from_numpy(plain.token_cosine_sum), torch.from_numpy(spread.token_cosine_sum))
    refused = run("heal", "mini", "--recipe", "interlace", "--tune-last", "1", "--data", "mini,count=32", "--device-map", "map.json")
    assert refused.returncode == 1 and "cannot be trained. Use examples/zero3_offload.yaml" in refused.stderr
    assert (
        run("heal", "mini", "--tune-last", "1", "--recipe", "interlace", "--data", "mini,count=32", "--device-map", "auto").returncode == 0
    )
    wrong = run("probe", "mini", "-o", "x.safetensors", "--device-map", "sideways", "--no-cache")
    assert wrong.returncode == 1 and "expected auto, balanced" in wrong.stderr
