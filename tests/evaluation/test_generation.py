"""Batched answers are those of one question at a time, whatever stands beside them in the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import EvaluationError
from hf_layerprune.evaluation import generation
from hf_layerprune.evaluation.generation import LoadedModel, Question, generate, ready
from hf_layerprune.mini import model_path
from hf_layerprune.mini.generator import draw_example
from hf_layerprune.models.batches import chat_prompt, encode_for_answers, encode_questions

CPU = torch.device("cpu")
SUBTASKS = [name for domain in DOMAINS for name in subtasks(domain)]


def questions(each: int, size: int = 64) -> list[Question]:
    """Of all nine subtasks, in a drawn order, so that prompts and answers of all lengths meet in a batch."""
    drawn = [draw_example(name, "evaluate", 9000 + number, size=size) for name in SUBTASKS for number in range(each)]
    Random(0).shuffle(drawn)
    return [Question(f"{one.subtask} {number}", [one.image], one.question) for number, one in enumerate(drawn)]


def plain_answer(mini: LoadedModel, question: Question, budget: int) -> str:
    """transformers alone: one question, no padding, its own generation config."""
    content = [{"type": "image"}, {"type": "text", "text": question.content}]
    processor: Any = mini.processor
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[question.images], return_tensors="pt")
    model: Any = mini.model
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=budget, do_sample=False)
    return str(processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_batches_answer_as_single_questions(mini: LoadedModel) -> None:
    asked = questions(3)
    alone = [plain_answer(mini, question, 48) for question in asked]
    for size in (27, 8):
        batched = [one for start in range(0, 27, size) for one in generate(mini, asked[start : start + size], 48)]
        assert [one.text for one in batched] == alone
        assert not any(one.truncated for one in batched)
    assert len(set(map(len, alone))) > 8


def test_pictures_of_different_sizes_in_a_batch(mini: LoadedModel) -> None:
    """Patches of all pictures come in one tensor; each answer must still be about its own. Left padding differs between rows."""
    pictures = [Image.new("RGB", size, color) for size, color in (((64, 64), "red"), ((128, 32), "blue"), ((40, 90), "white"))]
    asked = [Question(str(number), [image], f"Question: {'word ' * number}") for number, image in enumerate(pictures)]
    assert [one.text for one in generate(mini, asked, 12)] == [plain_answer(mini, question, 12) for question in asked]


def test_padding_is_on_the_left(mini: LoadedModel) -> None:
    images = [Image.new("RGB", (64, 64), (80 * number, 10, 30)) for number in range(3)]
    texts = ["What?", "How many objects are there in it?", "Why is it so?"]
    batch = encode_for_answers(mini.processor, [[image] for image in images], [chat_prompt(mini.processor, text) for text in texts], CPU)
    longest = batch.real.shape[1]
    for row, (image, text) in enumerate(zip(images, texts)):
        one = encode_questions(mini.processor, image, [text], CPU)
        length = one.real.shape[1]
        assert torch.equal(batch.inputs["input_ids"][row, longest - length :], one.inputs["input_ids"][0])
        assert batch.real[row].tolist() == [False] * (longest - length) + [True] * length
        patches = batch.inputs["pixel_values"].view(3, -1, batch.inputs["pixel_values"].shape[1])
        assert torch.equal(patches[row], one.inputs["pixel_values"])


def test_the_budget_truncates(mini: LoadedModel) -> None:
    asked = [question for question in questions(1) if "step by step" in question.content]
    whole, short = generate(mini, asked, 48)[0], generate(mini, asked, 5)[0]
    assert not whole.truncated and short.truncated and short.tokens == 5 and whole.text.startswith(short.text)
    exactly = generate(mini, asked, whole.tokens + 1)[0]  # the end token is the last one that fits
    assert exactly == whole and generate(mini, asked, whole.tokens)[0].truncated


def test_a_model_that_never_ends(mini: LoadedModel) -> None:
    endless = replace(mini, ends=())
    for one in generate(endless, questions(1)[:3], 20):
        assert one.truncated and one.tokens == 20


def test_end_tokens_of_the_checkpoint_count(mini: LoadedModel) -> None:
    config = json.loads((model_path() / "generation_config.json").read_text())
    assert mini.ends == tuple(config["eos_token_id"]) and len(mini.ends) == 2 and mini.pad == config["pad_token_id"]


def test_greedy_whatever_the_checkpoint_recommends(mini: LoadedModel) -> None:
    """Qwen3-VL's own generation_config.json samples."""
    asked, config = questions(1), mini.model.generation_config
    before = generate(mini, asked, 30)
    try:
        changed = ready(mini.model, mini.processor)
        mini.model.generation_config = generation.GenerationConfig(
            do_sample=True,
            temperature=5.0,
            top_k=5,
            top_p=0.3,
            repetition_penalty=9.0,
            no_repeat_ngram_size=1,
            num_beams=2,
            eos_token_id=[*mini.ends],
        )
        assert generate(changed, asked, 30) == before
    finally:
        mini.model.generation_config = config


def test_ties_are_settled_alone(mini: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold that makes every step a tie each question is asked again alone; with the true one, none of these."""
    sizes: list[int] = []
    ask = generation._generate

    def counted(loaded: LoadedModel, asked: Any, budget: int) -> Any:
        sizes.append(len(asked))
        return ask(loaded, asked, budget)

    monkeypatch.setattr(generation, "_generate", counted)
    before = generate(mini, questions(1), 16)
    assert sizes == [9]
    monkeypatch.setattr(generation, "TIE_EPSILONS", 1e9)
    assert generate(mini, questions(1), 16) == before
    assert sizes == [9, 9, *[1] * 9]


def test_what_is_a_tie() -> None:
    """Only between the two best, only before the end, and relative to the logits' size."""
    ties = generation._Ties([7], 4, 2, CPU)
    prompt = torch.tensor([[1, 2]] * 4)
    ties(prompt, torch.tensor([[5.0, 4.0, 3.9999999], [20.0, 20.0 - 1e-4, 0.0], [1.0, 0.999, -50.0], [9.0, 8.0, 7.0]]))
    assert ties.rows() == [1]
    ended = torch.cat([prompt, torch.tensor([[1], [1], [7], [1]])], 1)
    ties(ended, torch.tensor([[5.0, 4.0, 0.0], [5.0, 4.0, 0.0], [1.0, 1.0, 0.0], [3.0, 3.0, 0.0]]))
    assert ties.rows() == [1, 3]  # row 2 had ended


def test_what_the_model_cannot_take(mini: LoadedModel) -> None:
    narrow = Question("q.jsonl, line 4", [Image.new("RGB", (4000, 3))], "What?")
    with pytest.raises(UnusableRecord, match=r"q\.jsonl, line 4: .*refuses"):
        generate(mini, [narrow], 4)
    marked = Question("q.jsonl, line 5", [Image.new("RGB", (64, 64))], "What is <|image_pad|>?")
    with pytest.raises(UnusableRecord, match=r"q\.jsonl, line 5: the question holds the token"):
        generate(mini, [questions(1)[0], marked], 4)
    with pytest.raises(EvaluationError, match=r"tokens, more than the 2,048 places.*--max-new-tokens"):
        generate(mini, questions(1)[:1], 2048)
