"""Greedy answers to a batch of questions, such that none depends on which others are in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation.samples import Content
from hf_layerprune.evaluation.scoring import THOUGHT_TAG, final_answer
from hf_layerprune.models.batches import chat_prompt, encode_for_answers, image_tokens
from hf_layerprune.models.loading import input_device

# A batch adds its sums up in another order than a single sample does. In fp32 that moved logits of mini by 1.5e-5 at most, 5 epsilons
# of the largest; two tokens closer than 256 are a tie that the batch must not decide.
TIE_EPSILONS = 256


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with its processor.

    ends: the tokens that end an answer
    pad: the token that fills the places behind it
    opened: the tag of a thought that the chat template opens for the answer; "" if it opens none
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    ends: tuple[int, ...]
    pad: int
    opened: str = ""


@dataclass(frozen=True)
class Question:
    """A question about images. label: what to call it in messages; content: as `models.batches.chat_prompt` takes it."""

    label: str
    images: Sequence[Image.Image]
    content: Content
    system: str = ""


@dataclass(frozen=True)
class Generated:
    """An answer.

    text: begins with the tag of the thought if the chat template opened one
    tokens: how many were generated, without the end token
    truncated: whether the budget ended it, not the model, or it is a thought that does not end
    """

    text: str
    tokens: int
    truncated: bool


def ready(model: PreTrainedModel, processor: Any) -> LoadedModel:
    """Find the end tokens, as the checkpoint's own generation config or else its tokenizer and config say. Without any, every answer
    runs to its budget."""
    config: Any = model.generation_config
    found = config.eos_token_id if config is not None and config.eos_token_id is not None else processor.tokenizer.eos_token_id
    ends = () if found is None else (found,) if isinstance(found, int) else tuple(found)
    pad = processor.tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if ends else 0
        processor.tokenizer.pad_token = processor.tokenizer.convert_ids_to_tokens(pad)
    return LoadedModel(model, processor, ends, int(pad), _opened(processor))


def generate(loaded: LoadedModel, questions: Sequence[Question], budget: int) -> list[Generated]:
    """The greedy answers to a batch of questions, of at most `budget` tokens each.

    In fp32 a question of which two tokens were within rounding of each other is answered again alone, so that the answers are those
    of one question at a time whatever the batch; in other precisions such ties are common, and left to the batch. UnusableRecord if the
    model's image processor refuses an image, or a question holds the image token.
    """
    answers, close = _generate(loaded, questions, budget)
    if len(questions) > 1 and loaded.model.dtype == torch.float32:
        for row in close:
            answers[row] = _generate(loaded, [questions[row]], budget)[0][0]
    return answers


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class _Ties(LogitsProcessor):
    """Watches a generation for rows, not yet ended, whose two best tokens are closer than rounding can tell apart."""

    def __init__(self, ends: Sequence[int], rows: int, prompt: int, device: torch.device) -> None:
        self._ends = torch.tensor(ends, dtype=torch.long, device=device)
        self._prompt = prompt
        self._live = torch.ones(rows, dtype=torch.bool, device=device)
        self._close = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Float[Tensor, "batch word"]) -> Float[Tensor, "batch word"]:
        if input_ids.shape[1] > self._prompt:
            self._live &= ~torch.isin(input_ids[:, -1], self._ends)
        best = scores.topk(2, dim=-1).values
        tie = TIE_EPSILONS * torch.finfo(torch.float32).eps * best.abs().amax(-1).clamp(min=1)
        self._close |= self._live & (best[:, 0] - best[:, 1] <= tie)
        return scores

    def rows(self) -> list[int]:
        return [int(row) for row in self._close.nonzero().flatten()]


def _generate(loaded: LoadedModel, questions: Sequence[Question], budget: int) -> tuple[list[Generated], list[int]]:
    """The answers, and the rows that a rounding error could have decided otherwise."""
    device = input_device(loaded.model)
    token, prompts = getattr(loaded.processor, image_tokens(loaded.processor).token), []
    for one in questions:
        texts = (one.system, one.content) if isinstance(one.content, str) else (one.system, *one.content)
        if any(token in text for text in texts if text):
            raise UnusableRecord(f"{one.label}: the question holds the token that stands for an image")
        prompts.append(chat_prompt(loaded.processor, one.content, system=one.system, images=len(one.images)))
    try:
        batch = encode_for_answers(loaded.processor, [one.images for one in questions], prompts, device)
    except ValueError as error:  # the image processor's own limits, such as on the aspect ratio
        raise UnusableRecord(f"{questions[0].label}: the model's image processor refuses it ({error})") from error
    length = batch.real.shape[1]
    _check_length(loaded, questions[0].label, length + budget)
    ties = _Ties(loaded.ends, len(questions), length, device)
    with torch.inference_mode():
        model: Any = loaded.model
        output = model.generate(
            **batch.inputs, generation_config=_greedy(loaded, budget), logits_processor=LogitsProcessorList([ties]), tokenizer=None
        )
    rows = output[:, length:].tolist()
    return [_answer(loaded, row) for row in rows], ties.rows()


def _answer(loaded: LoadedModel, row: list[int]) -> Generated:
    tokenizer: Any = loaded.processor
    end = next((place for place, token in enumerate(row) if token in loaded.ends), None)
    tokens = row[:end]
    text = tokenizer.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = loaded.opened + text.strip()
    return Generated(whole, len(tokens), end is None or final_answer(whole) is None)


def _opened(processor: Any) -> str:
    """The tag of a thought that the template's generation prompt opens and does not close, "" if there is none."""
    question = "What is shown?"
    *_, last = [None, *THOUGHT_TAG.finditer(chat_prompt(processor, question).rpartition(question)[2])]
    return "" if last is None or last[1] else last[0]


def _greedy(loaded: LoadedModel, budget: int) -> GenerationConfig:
    """What a checkpoint's own generation config leaves unsaid is filled in from there by transformers: so say what could bend greed."""
    config: Any = GenerationConfig  # untyped in transformers
    return config(  # type: ignore[no-any-return]
        max_new_tokens=budget,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        eos_token_id=list(loaded.ends) or None,
        pad_token_id=loaded.pad,
        use_cache=True,
        return_dict_in_generate=False,
    )


def _check_length(loaded: LoadedModel, label: str, length: int) -> None:
    config: Any = loaded.model.config
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        raise EvaluationError(
            f"{label}: image, question and answer come to {length:,} tokens, more than the {most:,} places that the model has. "
            "Use smaller images or a smaller --max-new-tokens."
        )
