"""Batches: one user message, the image first, then the prompt byte for byte, the generation prompt, nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ProcessorMixin

import hf_layerprune
from hf_layerprune.errors import ModelError
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import chat_prompt, encode_questions, load_processor, size_limits

TABLE = json.loads((Path(hf_layerprune.__file__).parent / "artifacts" / "prompts.json").read_bytes())
PROMPTS = [text for domain in ("math", "nonmath") for text in TABLE[domain].values()]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def processor() -> ProcessorMixin:
    return load_processor(model_path())


def image(width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 30, 90))


@pytest.mark.parametrize("question", PROMPTS, ids=range(9))
def test_the_whole_text_of_a_sample(processor: ProcessorMixin, question: str) -> None:
    wanted = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    assert chat_prompt(processor, question) == wanted
    batch = encode_questions(processor, image(), [question], CPU)
    text = processor.tokenizer.decode(batch.inputs["input_ids"][0], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert text == wanted.replace("<|image_pad|>", "<|image_pad|>" * 16)  # 64 pixels in patches of 8, merged two by two
    assert batch.visual.sum() == 16 and batch.real.all()


def test_a_batch_is_its_samples_padded_on_the_right(processor: ProcessorMixin) -> None:
    batch = encode_questions(processor, image(), PROMPTS, CPU)
    alone = [encode_questions(processor, image(), [question], CPU) for question in PROMPTS]
    lengths = [one.real.shape[1] for one in alone]
    assert batch.real.shape == (9, max(lengths)) and len(set(lengths)) > 4
    for number, (one, length) in enumerate(zip(alone, lengths)):
        assert torch.equal(batch.inputs["input_ids"][number, :length], one.inputs["input_ids"][0])
        assert batch.real[number].tolist() == [True] * length + [False] * (max(lengths) - length)
        assert torch.equal(batch.visual[number, :length], one.visual[0]) and not batch.visual[number, length:].any()
        assert torch.equal(batch.inputs["mm_token_type_ids"][number, :length].bool(), one.visual[0])
    whole = alone[0].inputs["pixel_values"]
    assert torch.equal(batch.inputs["pixel_values"], whole.repeat(9, 1)) and batch.inputs["image_grid_thw"].tolist() == [[1, 8, 8]] * 9


def test_images_of_other_shapes(processor: ProcessorMixin) -> None:
    """The token count follows from the grid, whatever size the processor chooses."""
    for width, height in ((1, 1), (200, 20), (500, 400)):
        batch = encode_questions(processor, image(width, height), PROMPTS[:2], CPU)
        _, down, across = batch.inputs["image_grid_thw"][0].tolist()
        assert batch.visual.sum(1).tolist() == [down * across // 4] * 2 and down * across >= 4


def test_works_where_torchvision_cannot_be_imported(tmp_path: Path) -> None:
    """In a process of its own, where it is as good as not installed."""
    script = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] == "torchvision" else find(name, *rest)
sys.modules["torchvision"] = None
import torch
from PIL import Image
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.models.batches import load_processor
processor = load_processor(model_path())
batch = encode_questions(processor, Image.new("RGB", (64, 64)), ["What?"], torch.device("cpu"))
print(type(processor).__mro__[1].__name__, int(batch.visual.sum()))
"""
    where = {"PYTHONPATH": str(Path(hf_layerprune.__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=where, capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["Qwen3VLProcessor", "16"], done.stderr


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('two\\nlines') }}",
        "{% for %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_reaches_out_is_refused(tmp_path: Path, template: str) -> None:
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json"):
        shutil.copy(model_path() / name, tmp_path / name)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=r"^the checkpoint's chat template cannot be used: .") as caught:
        chat_prompt(load_processor(tmp_path), "What?")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)
    shutil.copy(model_path() / "config.json", tmp_path)
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)


@pytest.mark.parametrize("name", ["NoSuchProcessor", "AutoModel", 5, "os"])
def test_a_processor_that_is_none(tmp_path: Path, name: object) -> None:
    """An untrusted file names the class: only transformers' own processors are believed."""
    for file in model_path().glob("*.json"):
        value = json.loads(file.read_bytes())
        (tmp_path / file.name).write_text(json.dumps(value | ({"processor_class": name} if "processor_class" in value else {})))
    with pytest.raises(ModelError, match="processor"):
        load_processor(tmp_path)


def test_a_limit_of_pixels(processor: ProcessorMixin) -> None:
    """In the processor itself, or before it where it has no limit of its own; images below it stay as they are."""
    whole = encode_questions(processor, image(), PROMPTS[:2], CPU)
    same = encode_questions(processor, image(), PROMPTS[:2], CPU, max_pixels=64 * 64)
    assert torch.equal(whole.inputs["pixel_values"], same.inputs["pixel_values"])
    half = encode_questions(processor, image(64, 32), PROMPTS[:2], CPU, max_pixels=64 * 32 // 4)
    assert half.inputs["image_grid_thw"].tolist() == [[1, 2, 4]] * 2 and half.visual.sum() == 2 * 2
    assert size_limits(processor.image_processor) == (4096, 4096)


def test_the_tokenizers_template_where_there_is_no_other(tmp_path: Path, processor: ProcessorMixin) -> None:
    for file in model_path().glob("*.json"):
        shutil.copy(file, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    settings["chat_template"] = (model_path() / "chat_template.jinja").read_text()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert chat_prompt(load_processor(tmp_path), "What?") == chat_prompt(processor, "What?")


def test_another_models_processor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the processor writes the image token \d+, and the model reads 3\. Take the model's own"):
        load_processor(model_path(), 3)


def test_a_conversation_with_a_system_text_and_images_among_the_words(processor: ProcessorMixin) -> None:
    found = chat_prompt(processor, ("Is ", None, " like ", None, "?"), system="Be brief.")
    one = "<|vision_start|><|image_pad|><|vision_end|>"
    asked = f"<|im_start|>user\nIs {one} like {one}?<|im_end|>\n<|im_start|>assistant\n"
    assert found == f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}"
    assert chat_prompt(processor, "What?", images=2) == chat_prompt(processor, (None, None, "What?"))
