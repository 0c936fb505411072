"""A conversation as the tensors that a model is trained on, with the loss on what the assistant says and on nothing else."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from hf_layerprune.data.image_files import BadRecord
from hf_layerprune.errors import ModelError
from hf_layerprune.healing.chat_template import ChatTemplate, Span
from hf_layerprune.healing.conversations import Conversation, Picture, Turn
from hf_layerprune.healing.picture_sizes import PictureSizes
from hf_layerprune.models.processor import image_token_id, image_tokens

IGNORED = -100  # the label of a token that the loss leaves out

EncodedSample = dict[str, Tensor]
"""input_ids, labels, attention_mask, mm_token_type_ids: int64 [T]; and with N pictures of P patches in all
pixel_values: float32 [P, d], image_grid_thw: int64 [N, 3]."""


def token_keys(processor: Any) -> frozenset[str]:
    """What a sample has with one entry a token; everything else is of its pictures."""
    return frozenset({"input_ids", "attention_mask", "labels", *image_tokens(processor).inputs})


class TooLong(BadRecord):
    """A sample that does not fit, whatever the size of its pictures."""


@dataclass(frozen=True)
class _Drawn:
    """A sample before its pictures become numbers. tokens: as the tokenizer has them, one placeholder a picture; counts: of tokens
    in place of each of them; limit: pixels a picture, None for the processor's own."""

    text: str
    pictures: list[Image.Image]
    tokens: Int[np.ndarray, "placeholder_token"]
    counted: Bool[np.ndarray, "placeholder_token"]
    counts: Int[np.ndarray, "placeholder_token"]
    limit: int | None


@dataclass(frozen=True)
class ChatEncoder:
    """Encodes conversations through a checkpoint's own processor and template, to `max_length` tokens. It can be pickled."""

    processor: Any
    max_length: int

    @classmethod
    def of(cls, processor: Any, max_length: int) -> ChatEncoder:
        """ModelError if the processor or its template is none that can be trained with."""
        if not processor.tokenizer.is_fast:
            raise ModelError(
                f"{type(processor.tokenizer).__name__} does not tell where its tokens stand in the text; a fast one is needed."
            )
        encoder = cls(processor, max_length)
        try:
            replace(encoder, max_length=1 << 30).encode(_EXAMPLE)
        except BadRecord as bad:
            raise ModelError(f"the checkpoint's processor cannot be trained with: {bad}.") from bad
        return encoder

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatEncoder, (self.processor, self.max_length)  # without what was derived from them

    def measure(self, conversation: Conversation) -> tuple[int, bool]:
        """The sample's length in tokens, and whether its pictures must be scaled down for it; raises as `encode` does.

        Every picture is decoded, but not turned into numbers.
        """
        drawn = self._draw(conversation)
        return int(drawn.counts.sum()), drawn.limit is not None

    def encode(self, conversation: Conversation) -> EncodedSample:
        """The tensors of a sample of at most `max_length` tokens; the largest pictures are scaled down where it is longer.

        labels: the token itself where the assistant says it, the end of its turn included; -100 elsewhere. Raises TooLong if the
        smallest pictures do not make it fit, BadRecord if it cannot be encoded, ModelError if the processor does not do as expected.
        """
        drawn = self._draw(conversation)
        options: dict[str, Any] = {"images": [drawn.pictures]} if drawn.pictures else {}
        if drawn.limit is not None:
            options["images_kwargs"] = self._sizes.options(drawn.limit)
        made = self.processor(text=[drawn.text], return_tensors="pt", **options)
        keys = token_keys(self.processor)
        sample = {key: value[0] if key in keys else value for key, value in made.items()}
        expected = torch.from_numpy(np.repeat(drawn.tokens, drawn.counts))
        if not torch.equal(sample["input_ids"], expected):
            raise ModelError(f"{conversation.label}: the processor's tokens are not those of its text with its pictures' tokens filled in.")
        counted = torch.from_numpy(np.repeat(drawn.counted, drawn.counts))
        return sample | {"labels": expected.masked_fill(~counted, IGNORED)}

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides how a conversation is encoded."""
        processor, whole = self.processor, hashlib.sha256()
        parts = (
            transformers.__version__,
            str(self.max_length),
            str(getattr(processor, "chat_template", None) or processor.tokenizer.chat_template),
            processor.tokenizer.backend_tokenizer.to_str(),
            str(processor.image_processor.to_json_string()),
        )
        for part in parts:
            whole.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
        return whole.hexdigest()

    def _draw(self, conversation: Conversation) -> _Drawn:
        text, spans = self._template.written(conversation)
        tokens, counted = self._tokens(conversation, text, spans)
        places = np.flatnonzero(tokens == self._image_token)
        pictures = [part.load() for part in conversation.pictures]
        if len(places) != len(pictures):
            raise ModelError(f"{conversation.label}: the chat template writes {len(places)} places for {len(pictures)} pictures.")
        limit, sizes = self._fit(conversation, len(tokens) - len(places), [(picture.height, picture.width) for picture in pictures])
        counts = np.ones(len(tokens), np.int64)
        counts[places] = sizes
        return _Drawn(text, pictures, tokens, counted, counts, limit)

    def _fit(self, conversation: Conversation, words: int, sizes: list[tuple[int, int]]) -> tuple[int | None, list[int]]:
        """The limit of pixels a picture, None if all fits without, and the tokens that each picture then takes."""
        try:
            counts, limit = self._sizes.tokens(sizes), None
            if words + sum(counts) > self.max_length:
                limit = self._sizes.fitting(sizes, self.max_length - words) if sizes else None
                if limit is None:
                    smallest = sum(self._sizes.tokens(sizes, self._sizes.least))
                    raise TooLong(f"{conversation.label}: {words + smallest:,} tokens at least, more than {self.max_length:,}")
                counts = self._sizes.tokens(sizes, limit)
        except ValueError as error:  # the image processor's own limits, such as on the aspect ratio
            raise BadRecord(f"{conversation.label}: the model's image processor refuses a picture ({error})") from error
        return limit, counts

    def _tokens(
        self, conversation: Conversation, text: str, spans: list[Span]
    ) -> tuple[Int[np.ndarray, "token"], Bool[np.ndarray, "token"]]:
        """The tokens of a text, and which lie wholly in the spans; proved by decoding these and by counting control tokens."""
        made = self._tokenizer(text, return_offsets_mapping=True)
        tokens, offsets = np.array(made["input_ids"], np.int64), np.array(made["offset_mapping"], np.int64).reshape(-1, 2)
        counted = np.zeros(len(tokens), bool)
        for start, end in spans:
            inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
            if not _same(self._tokenizer.decode(tokens[inside], skip_special_tokens=False), text[start:end]):
                raise BadRecord(f"{conversation.label}: the tokens of an answer do not decode to it, so its loss cannot be placed")
            counted |= inside
        of_template = np.isin(self._tokenizer(self._template.skeleton(conversation))["input_ids"], self._control).sum()
        if np.isin(tokens, self._control).sum() != of_template:
            raise BadRecord(f"{conversation.label}: its text becomes a control token where it meets the template's")
        return tokens, counted

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.processor)

    @cached_property
    def _sizes(self) -> PictureSizes:
        return PictureSizes(self.processor.image_processor)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.processor.tokenizer

    @cached_property
    def _image_token(self) -> int:
        return image_token_id(self.processor)

    @cached_property
    def _control(self) -> Int[np.ndarray, "control"]:
        added = self._tokenizer.added_tokens_decoder
        return np.array([number for number, token in added.items() if self._template.control.fullmatch(token.content)], np.int64)


_PICTURE = Picture(Image.new("RGB", (64, 64)), None, "an example")
_EXAMPLE = Conversation("an example", (Turn("user", (_PICTURE, "What is it?")), Turn("assistant", ("Nothing.",))))


def _same(decoded: str, text: str) -> bool:
    """Whether tokens decode to a text, but for how its letters are composed and for space that the template's own token took."""
    return unicodedata.normalize("NFC", decoded).lstrip() == unicodedata.normalize("NFC", text).lstrip()
