"""Load a processor for images and text, with torchvision or without it, and ask its family how it marks images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoProcessor, ProcessorMixin

from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.errors import ModelError, first_line
from hf_layerprune.families import image_tokens_of
from hf_layerprune.families.family import ImageTokens

_AUTO: Any = AutoProcessor  # untyped in transformers
_NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(path: Path) -> ProcessorMixin:
    """The processor of a folder. Without torchvision its video part, which needs it, is left out; images work without it.

    Raises ModelError if the folder has no processor, or one that needs code of its own.
    """
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
