"""A conversation as the tensors a model is trained on, with the loss on what the assistant says alone; and samples as a batch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.data.conversations import Conversation, Turn
from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import ModelError, first_line
from hf_layerprune.models.batches import LIMITS, image_token_id, image_tokens, reserved_tokens, size_limits

IGNORED = -100  # the label of a token that the loss leaves out
Span = tuple[int, int]  # first character, and the one after the last
Size = tuple[int, int]  # height, width in pixels
EncodedSample = dict[str, Tensor]
"""input_ids, labels, attention_mask, mm_token_type_ids: int64 [T]; and with N images of P patches in all
pixel_values: float32 [P, d], image_grid_thw: int64 [N, 3]."""


class TooLong(UnusableRecord):
    """A sample that does not fit, whatever the size of its images."""


class ChatTemplate:
    """The template of a processor, and the control tokens that only it may write.

    It is an untrusted program, which transformers runs in its sandbox. Where the assistant's words are is found by comparing what it
    writes for growing parts of a conversation, so that it holds for any template, or is refused.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        added = processor.tokenizer.added_tokens_decoder.values()
        control = {token.content for token in added if token.special} | set(processor.tokenizer.all_special_tokens)
        control |= reserved_tokens(processor)
        self.control = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")

    def written(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The text of a conversation, and the assistant's answers in it, each with the token that ends it.

        UnusableRecord if a text holds a control token, or the template does not write the answers in a way that shows where they are.
        """
        label, turns = conversation.label, conversation.turns
        if found := next((match for turn in turns if (match := self.control.search(turn.text))), None):
            raise UnusableRecord(f"{label}: the text contains the control token {found[0]!r}, which only the template may write")
        spans: list[Span] = []
        whole = self.render(turns)
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before = self.render(turns[:number], add_generation_prompt=True)
            after = whole if number + 1 == len(turns) else self.render(turns[: number + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise UnusableRecord(f"{label}: the chat template writes answer {len(spans) + 1} differently from when it is generated")
            start, end = len(before), self.control.search(after, len(before))  # the first control token ends the turn
            if end is None or after[end.end() :].strip() or not "".join(after[: end.start()].split()).endswith("".join(turn.text.split())):
                raise UnusableRecord(f"{label}: the chat template does not write an answer unchanged and end it with a control token")
            spans.append((start, end.end()))
        return whole, spans

    def render(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
        """What the template makes of some turns; ModelError if it fails."""
        messages = [
            {
                "role": turn.role,
                "content": [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts],
            }
            for turn in turns
        ]
        try:
            return str(self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # an untrusted template may raise anything
            raise ModelError(f"the checkpoint's chat template cannot be used: {first_line(error)}.") from error


class ImageSizes:
    """The token counts of an image processor that keeps an image's pixels between two limits, as those of Qwen-VL do."""

    def __init__(self, image_processor: Any) -> None:
        limits = size_limits(image_processor)
        if limits is None or not hasattr(image_processor, "get_number_of_image_patches"):
            kind = type(image_processor).__name__
            raise ModelError(f"{kind} does not say how many tokens an image takes; healing knows the image processors of Qwen-VL.")
        self._processor: Any = image_processor
        self.least, self.most = limits

    def count(self, sizes: Sequence[Size], most: int | None = None) -> list[int]:
        """Tokens of each image, where none gets more than `most` pixels. ValueError for one that the processor refuses."""
        limits = {"min_pixels": self.least, "max_pixels": most or self.most}
        merged = self._processor.merge_size**2
        return [self._processor.get_number_of_image_patches(*size, limits) // merged for size in sizes]

    def fitting(self, sizes: Sequence[Size], room: int) -> int | None:
        """The largest limit of pixels per image with which all of them take at most `room` tokens: it shrinks the largest first,
        down to the processor's own minimum. None if even that is too much."""
        low, high = self.least, self.most + 1
        if not sizes or sum(self.count(sizes, low)) > room:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self.count(sizes, middle)) <= room else (low, middle)
        return low


@dataclass(frozen=True)
class _Laid:
    """A sample before its images become numbers."""

    text: str
    images: list[Image.Image]
    tokens: Int[np.ndarray, "placeholder_token"]  # one placeholder per image
    counted: Bool[np.ndarray, "placeholder_token"]  # whether the loss is taken on it
    counts: Int[np.ndarray, "placeholder_token"]  # tokens in its place
    limit: int | None  # pixels per image, None for the processor's own


@dataclass(frozen=True)
class ChatEncoder:
    """Encodes conversations through a checkpoint's own processor and template, to `max_length` tokens. It can be pickled."""

    processor: Any
    max_length: int

    @classmethod
    def of(cls, processor: Any, max_length: int) -> ChatEncoder:
        """ModelError if the processor or its template cannot be trained with."""
        if not processor.tokenizer.is_fast:
            name = type(processor.tokenizer).__name__
            raise ModelError(f"{name} does not tell where its tokens stand in the text; a fast tokenizer is needed.")
        encoder = cls(processor, max_length)
        try:
            replace(encoder, max_length=1 << 30).encode(_EXAMPLE)
        except UnusableRecord as bad:
            raise ModelError(f"the checkpoint's processor cannot be trained with: {bad}.") from bad
        return encoder

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatEncoder, (self.processor, self.max_length)  # without what was derived from them

    def measure(self, conversation: Conversation) -> tuple[int, bool]:
        """The sample's length in tokens, and whether its images must be scaled down for it; raises as `encode` does.

        Every image is decoded, but not turned into numbers.
        """
        laid = self._laid(conversation)
        return int(laid.counts.sum()), laid.limit is not None

    def encode(self, conversation: Conversation) -> EncodedSample:
        """The tensors of a sample of at most `max_length` tokens; the largest images are scaled down where it is longer.

        labels: the token itself where the assistant says it, the end of its turn included; -100 elsewhere. Raises TooLong if the
        smallest images do not make it fit, UnusableRecord if it cannot be encoded, ModelError if the processor does not do as expected.
        """
        laid = self._laid(conversation)
        options: dict[str, Any] = {"images": [laid.images]} if laid.images else {}
        if laid.limit is not None:
            options["images_kwargs"] = {"size": dict(zip(LIMITS, (self._sizes.least, laid.limit)))}
        made, keys = self.processor(text=[laid.text], return_tensors="pt", **options), token_keys(self.processor)
        sample = {key: value[0] if key in keys else value for key, value in made.items()}
        expected = torch.from_numpy(np.repeat(laid.tokens, laid.counts))
        if not torch.equal(sample["input_ids"], expected):
            raise ModelError(f"{conversation.label}: the processor's tokens are not those of its text with its images' tokens filled in.")
        counted = torch.from_numpy(np.repeat(laid.counted, laid.counts))
        return sample | {"labels": expected.masked_fill(~counted, IGNORED)}

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides how a conversation is encoded."""
        processor = self.processor
        template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
        parts = (template, processor.tokenizer.backend_tokenizer.to_str(), processor.image_processor.to_json_string())
        return digest_of([transformers.__version__, self.max_length, *map(str, parts)])

    def _laid(self, conversation: Conversation) -> _Laid:
        text, spans = self._template.written(conversation)
        tokens, counted = self._tokens(conversation, text, spans)
        places = np.flatnonzero(tokens == image_token_id(self.processor))
        images = [image.load() for image in conversation.images]
        if len(places) != len(images):
            raise ModelError(f"{conversation.label}: the chat template writes {len(places)} places for {len(images)} images.")
        limit, sizes = self._fit(conversation, len(tokens) - len(places), [(image.height, image.width) for image in images])
        counts = np.ones(len(tokens), np.int64)
        counts[places] = sizes
        return _Laid(text, images, tokens, counted, counts, limit)

    def _fit(self, conversation: Conversation, words: int, sizes: list[Size]) -> tuple[int | None, list[int]]:
        """The limit of pixels per image, None if all fits without, and the tokens that each image then takes."""
        try:
            counts, limit = self._sizes.count(sizes), None
            if words + sum(counts) > self.max_length:
                limit = self._sizes.fitting(sizes, self.max_length - words)
                if limit is None:
                    least = words + sum(self._sizes.count(sizes, self._sizes.least))
                    raise TooLong(f"{conversation.label}: {least:,} tokens at least, more than {self.max_length:,}")
                counts = self._sizes.count(sizes, limit)
        except ValueError as error:  # the image processor's own limits, such as on the aspect ratio
            raise UnusableRecord(f"{conversation.label}: the model's image processor refuses an image ({error})") from error
        return limit, counts

    def _tokens(
        self, conversation: Conversation, text: str, spans: list[Span]
    ) -> tuple[Int[np.ndarray, "token"], Bool[np.ndarray, "token"]]:
        """The tokens of a text, and which lie wholly in the spans; proved by decoding these and by counting control tokens."""
        tokenizer = self.processor.tokenizer
        made = tokenizer(text, return_offsets_mapping=True)
        tokens, offsets = np.array(made["input_ids"], np.int64), np.array(made["offset_mapping"], np.int64).reshape(-1, 2)
        counted = np.zeros(len(tokens), bool)
        for start, end in spans:
            inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
            if not _same(tokenizer.decode(tokens[inside], skip_special_tokens=False), text[start:end]):
                raise UnusableRecord(f"{conversation.label}: the tokens of an answer do not decode to it, so its loss cannot be placed")
            counted |= inside
        # Of the same conversation with x for every text the control tokens are the template's own.
        bare = [Turn(turn.role, tuple("x" if isinstance(part, str) else part for part in turn.parts)) for turn in conversation.turns]
        of_template = tokenizer(self._template.render(bare))["input_ids"]
        if np.isin(tokens, self._control).sum() != np.isin(of_template, self._control).sum():
            raise UnusableRecord(f"{conversation.label}: its text becomes a control token where it meets the template's")
        return tokens, counted

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.processor)

    @cached_property
    def _sizes(self) -> ImageSizes:
        return ImageSizes(self.processor.image_processor)

    @cached_property
    def _control(self) -> Int[np.ndarray, "control"]:
        added = self.processor.tokenizer.added_tokens_decoder
        return np.array([number for number, token in added.items() if self._template.control.fullmatch(token.content)], np.int64)


_IMAGE = ImageRef(Image.new("RGB", (64, 64)), None, "an example")
_EXAMPLE = Conversation("an example", (Turn("user", (_IMAGE, "What is it?")), Turn("assistant", ("Nothing.",))))


def token_keys(processor: Any) -> frozenset[str]:
    """What a sample has with one entry a token; everything else is of its images."""
    return frozenset({"input_ids", "attention_mask", "labels", *image_tokens(processor).inputs})


def _same(decoded: str, text: str) -> bool:
    """Whether tokens decode to a text, but for how its letters are composed and for space that the template's own token took."""
    return unicodedata.normalize("NFC", decoded).lstrip() == unicodedata.normalize("NFC", text).lstrip()


@dataclass(frozen=True)
class Collator:
    """Joins samples to a batch, padded on the right to the longest: input_ids with `padding`, labels with -100, all else with 0.

    Of B samples, the longest of T tokens, with N images of P patches in all: token keys [B, T], pixel_values [P, d],
    image_grid_thw [N, 3], in the order of the samples. Samples without an image may be among them; a batch of such alone has no
    keys of images at all.
    """

    padding: int
    token_keys: frozenset[str]

    @classmethod
    def of(cls, processor: Any) -> Collator:
        """With the padding token of a processor's tokenizer, or where it has none its end token, or 0: they are masked anyway."""
        tokenizer = processor.tokenizer
        padding = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
        return cls(padding, token_keys(processor))

    def __call__(self, samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
        batch = {}
        for key in dict.fromkeys(key for sample in samples for key in sample):
            values = [sample[key] for sample in samples if key in sample]
            filler = {"input_ids": self.padding, "labels": IGNORED}.get(key, 0)
            batch[key] = pad_sequence(values, batch_first=True, padding_value=filler) if key in self.token_keys else torch.cat(values)
        return batch
