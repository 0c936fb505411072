"""Processors, with torchvision or without it, and the batches of images and questions that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, ProcessorMixin

from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.errors import ModelError, first_line
from hf_layerprune.families import image_tokens_of
from hf_layerprune.families.family import ImageTokens
from hf_layerprune.models.remote_code import refuse_remote_code

_AUTO: Any = AutoProcessor  # untyped in transformers
LIMITS = ("shortest_edge", "longest_edge")  # of an image processor's size: numbers of pixels, whatever the names say
_NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(path: Path, reads: int | None = None) -> ProcessorMixin:
    """The processor of a folder. Without torchvision its video part, which needs it, is left out; images work without it.

    reads: the id of the token that the model takes for an image

    Raises ModelError if the folder has no processor, one that needs code of its own, or one that writes another image token.
    """
    refuse_remote_code(path)
    found = _loaded(path)
    if found.chat_template is None:
        found.chat_template = getattr(found.tokenizer, "chat_template", None)
    if reads is not None and (writes := image_token_id(found)) != reads:
        raise ModelError(f"{path}: the processor writes the image token {writes}, and the model reads {reads}. Take the model's own.")
    return cast(ProcessorMixin, found)


def _loaded(path: Path) -> Any:
    try:
        found = _AUTO.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except ImportError:
        return _image_and_text_processor(path)
    except Exception as error:  # an untrusted configuration may make transformers raise anything
        raise ModelError(f"{path}: transformers cannot load the processor: {first_line(error)}.") from error
    if not isinstance(found, ProcessorMixin):  # where it knows no processor, transformers takes the tokenizer for one
        raise ModelError(f"{path}: no file there names a processor that transformers knows; found a {type(found).__name__} alone.")
    return found


def image_tokens(processor: Any) -> ImageTokens:
    """How a processor marks images, as its family declares it; ModelError if no family declares this processor."""
    if found := image_tokens_of(kind.__name__ for kind in type(processor).__mro__):
        return found
    raise ModelError(f"no family declares the processor {type(processor).__name__}, so its image tokens are not known.")


def image_token_id(processor: Any) -> int:
    """The id of the token that stands for an image, or for a part of one."""
    return int(getattr(processor, image_tokens(processor).token_id))


def reserved_tokens(processor: Any) -> frozenset[str]:
    """The tokens for images that only the chat template may write, those that this processor has."""
    names = image_tokens(processor)
    return frozenset(token for name in (names.token, *names.other_tokens) if (token := getattr(processor, name, None)))


def _image_and_text_processor(path: Path) -> ProcessorMixin:
    """An instance of the folder's processor class that has only the parts that need no torchvision."""
    name = next((n for file in _NAMING_FILES if (n := _processor_class(path / file))), None)
    base: Any = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(base, type) and issubclass(base, ProcessorMixin)):
        raise ModelError(f"{path}: no file there names a processor that transformers knows; found {name!r}.")
    try:
        return _without_video(base).from_pretrained(path, local_files_only=True, trust_remote_code=False)  # type: ignore[no-any-return]
    except Exception as error:
        raise ModelError(f"{path}: the processor {name} cannot be loaded: {first_line(error)}.") from error


def _without_video(base: Any) -> Any:
    """A processor class without its video part; its instances can be sent to other processes."""

    class ImageTextProcessor(base):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in base.get_attributes() if "video" not in part]

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuilt, (base, self.__dict__)

    return ImageTextProcessor


def _rebuilt(base: Any, state: dict[str, Any]) -> Any:
    kind = _without_video(base)
    processor = kind.__new__(kind)
    processor.__dict__.update(state)
    return processor


def _processor_class(path: Path) -> str | None:
    return read_json(path, "processor configuration").get("processor_class") if path.is_file() else None


@dataclass(frozen=True)
class ImageBatch:
    """Model inputs of B samples of at most T tokens, padded on one side, with the real and the visual tokens marked."""

    inputs: dict[str, Tensor]
    real: Bool[Tensor, "batch token"]
    visual: Bool[Tensor, "batch token"]


def encode_questions(
    processor: Any, image: Image.Image, questions: Sequence[str], device: torch.device, max_pixels: int | None = None
) -> ImageBatch:
    """Each question as one user message, the image first, then the text, with the generation prompt (paper, supplement 2).

    max_pixels: scale the image down to so many, in the image processor itself where it has a limit of its own.
    """
    options = {}
    if max_pixels is not None and image.width * image.height > max_pixels:
        limits = size_limits(processor.image_processor)
        if limits is None:
            scale = (max_pixels / (image.width * image.height)) ** 0.5
            image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.BICUBIC)
        elif max_pixels < limits[1]:
            options = {"images_kwargs": {"size": dict(zip(LIMITS, (min(limits[0], max_pixels), max_pixels)))}}
    texts = [chat_prompt(processor, question) for question in questions]
    first = _encode(processor, [[image]], texts[:1], "right", device, **options)
    places = first.visual[0].nonzero().flatten()
    if len(places) != int(places[-1] - places[0]) + 1:  # rows of an image have tokens between them, which the processor alone knows
        return _encode(processor, [[image]] * len(questions), texts, "right", device, **options)
    return _with_questions(processor, first, len(places), texts)


def _with_questions(processor: Any, first: ImageBatch, count: int, prompts: Sequence[str]) -> ImageBatch:
    """The batch of a first prompt made one of several about the same image, which becomes numbers once: it takes `count` tokens."""
    mark, tokenizer = image_token_id(processor), processor.tokenizer
    rows = [[token for one in tokenizer(prompt)["input_ids"] for token in [one] * (count if one == mark else 1)] for prompt in prompts]
    made = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(first.real.device)
    real, visual = made["attention_mask"].bool(), made["input_ids"] == mark
    kinds = {name: visual.long() for name in image_tokens(processor).inputs if name in first.inputs}
    images = {name: value for name, value in first.inputs.items() if name not in (*made, *kinds)}
    repeated = {name: torch.cat([value] * len(rows)) for name, value in images.items()}
    return ImageBatch({**made, **kinds, **repeated}, real, visual)


def encode_for_answers(processor: Any, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], device: torch.device) -> ImageBatch:
    """Each prompt with images of its own, padded on the left, so that every answer begins at the same place."""
    return _encode(processor, images, prompts, "left", device)


def _encode(
    processor: Any, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], side: str, device: torch.device, **options: Any
) -> ImageBatch:
    inputs = processor(text=prompts, images=images, padding=True, padding_side=side, return_tensors="pt", **options).to(device)
    return ImageBatch(dict(inputs), inputs["attention_mask"].bool(), inputs["input_ids"] == image_token_id(processor))


def size_limits(image_processor: Any) -> tuple[int, int] | None:
    """The least and the most pixels of an image that a processor has, as those of Qwen-VL do; None if it says neither."""
    size: Any = getattr(image_processor, "size", None) or {}
    limits = [size.get(name) if hasattr(size, "get") else getattr(size, name, None) for name in LIMITS]
    return (int(limits[0]), int(limits[1])) if all(limits) else None  # type: ignore[arg-type]


def chat_prompt(processor: Any, content: str | Sequence[str | None], *, system: str = "", images: int = 1) -> str:
    """The text of one user message through the checkpoint's own template, in transformers' sandbox.

    content: a text behind the `images`, or texts and None for each image in their order
    """
    parts = [*[None] * images, content] if isinstance(content, str) else content
    said = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    messages = [{"role": "system", "content": [{"type": "text", "text": system}]}] * bool(system) + [{"role": "user", "content": said}]
    try:
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # an untrusted template may raise anything
        raise ModelError(f"the checkpoint's chat template cannot be used: {first_line(error)}.") from error
