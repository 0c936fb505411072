"""Loss on what the assistant says and on nothing else: every token checked against a text built by hand, letter by letter."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from hf_layerprune.data.conversations import Conversation, Turn
from hf_layerprune.data.image_files import ImageRef
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import ModelError
from hf_layerprune.healing.encoding import ChatEncoder, Collator, TooLong
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model
from tests.healing.processors import mini_processor

TOKENIZER = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
PROCESSOR = load_processor(model_path())
ENCODER = ChatEncoder.of(PROCESSOR, 4096)
MINI_TOKENS = 16  # of a square image: 64 x 64 pixels, patches of 8, four of them a token

Part = str | tuple[int, int]  # a text, or the width and height of an image


def talk(*turns: tuple[Part, ...] | str, system: str | None = None) -> Conversation:
    """User and assistant by turns."""
    roles = ("user", "assistant")
    made = [Turn(roles[number % 2], _parts(turn)) for number, turn in enumerate(turns)]  # type: ignore[arg-type]
    return Conversation("x", (*((Turn("system", (system,)),) if system is not None else ()), *made))


def _parts(turn: tuple[Part, ...] | str) -> tuple[str | ImageRef, ...]:
    parts = (turn,) if isinstance(turn, str) else turn
    return tuple(part if isinstance(part, str) else ImageRef(Image.new("RGB", part, "red"), None, "x") for part in parts)


def by_hand(conversation: Conversation, tokens: dict[tuple[int, int], int]) -> tuple[list[int], list[int]]:
    """Token numbers and labels by mini's format, written out here; a token counts if all of its letters do."""
    pieces: list[tuple[str, bool]] = []
    for turn in conversation.turns:
        mine = turn.role == "assistant"
        pieces.append((f"<|im_start|>{turn.role}\n", False))
        for part in turn.parts:
            visual = "" if isinstance(part, str) else "<|image_pad|>" * tokens[part.value.size]
            pieces.append((part, mine) if isinstance(part, str) else (f"<|vision_start|>{visual}<|vision_end|>", False))
        pieces += [("<|im_end|>", mine), ("\n", False)]
    said = [mine for text, mine in pieces for _ in text]
    made = TOKENIZER.encode("".join(text for text, _ in pieces), add_special_tokens=False)
    counts = [all(said[start:end]) and end > start for start, end in made.offsets]
    return made.ids, [number if counted else -100 for number, counted in zip(made.ids, counts)]


def check(
    conversation: Conversation, encoder: ChatEncoder = ENCODER, tokens: dict[tuple[int, int], int] | None = None
) -> dict[str, torch.Tensor]:
    sizes = {part.value.size for part in conversation.images}
    sample = encoder.encode(conversation)
    ids, labels = by_hand(conversation, tokens or dict.fromkeys(sizes, MINI_TOKENS))
    assert sample["input_ids"].tolist() == ids and sample["labels"].tolist() == labels
    assert sample["attention_mask"].tolist() == [1] * len(ids)
    assert sample["mm_token_type_ids"].tolist() == [int(number == TOKENIZER.token_to_id("<|image_pad|>")) for number in ids]
    assert encoder.measure(conversation)[0] == len(ids)
    return dict(sample)


def test_one_image_and_one_answer() -> None:
    sample = check(talk(((64, 64), "How many?"), "Three."))
    assert TOKENIZER.decode(sample["labels"][sample["labels"] >= 0].tolist(), skip_special_tokens=False) == "Three.<|im_end|>"
    assert sample["pixel_values"].shape == (64, 3 * 2 * 8 * 8) and sample["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert set(check(talk("hi", "ho"))) == {"input_ids", "labels", "attention_mask", "mm_token_type_ids"}


def test_answers_that_are_hard_to_place() -> None:
    """Empty ones still end; the user says what the assistant says, and the template's words; first letters join the template's token."""
    sample = check(talk("a", "", "b", "c", "d", ""))
    assert (sample["labels"] == TOKENIZER.token_to_id("<|im_end|>")).sum() == 3
    check(talk("Three.", "Three.", "assistant\nThree.", "user\nThree.", system="Three."))
    for answer in ("\n", "\n\nfoo", " \n x", "\t"):
        check(talk("a", answer))


def test_a_token_that_is_half_the_templates(tmp_path: Path) -> None:
    """Most tokenizers have one token for two line ends: where the answer begins with one, that token is not wholly its own."""
    processor = mini_processor(tmp_path, merges=[("Ċ", "Ċ")])
    sample = ChatEncoder.of(processor, 100).encode(talk("a", "\n\nfoo\n\nbar"))
    counted = sample["labels"] >= 0
    assert processor.tokenizer.decode(sample["labels"][counted].tolist(), skip_special_tokens=False) == "\nfoo\n\nbar<|im_end|>"
    before = sample["input_ids"][int(counted.nonzero()[0]) - 1]
    assert processor.tokenizer.decode(int(before)) == "\n\n"


LETTERS = [*"abc XYZ 01+-=.,?\n\t", "é", "e\u0301", "ß", "中", "🙂", "\u0338", "\u200b"]
LOOKALIKES = ["<", "|", ">", "im", "_end", "<|im_end", "|>", "<image>", "</s>", "[PAD]"]
ALPHABET = st.sampled_from(LETTERS + LOOKALIKES)
texts = st.lists(ALPHABET, max_size=12).map("".join).filter(lambda text: ENCODER._template.control.search(text) is None)
images = st.sampled_from([(64, 64), (8, 8), (300, 300)])
questions = st.lists(texts | images, min_size=1, max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(questions, texts), min_size=1, max_size=4), st.none() | texts)
def test_any_conversation(exchanges: list[tuple[tuple[Part, ...], str]], system: str | None) -> None:
    conversation = talk(*(turn for exchange in exchanges for turn in exchange), system=system)
    if any(ENCODER._template.control.search(turn.text) for turn in conversation.turns):  # joined from harmless parts
        return
    check(conversation)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|im_start|>", "<|endoftext|>", "<|video_pad|>", "<|vision_start|>"])
def test_an_untrusted_text_becomes_no_control_token(token: str) -> None:
    for conversation in (talk(f"a{token}b", "c"), talk("a", f"b{token}"), talk("a", "b", system=token), talk((token[:5], token[5:]), "b")):
        with pytest.raises(UnusableRecord, match="the text contains the control token '<"):
            ENCODER.encode(conversation)


def test_it_can_be_sent_to_another_process() -> None:
    conversation = talk(((64, 64), "a"), "b")
    ENCODER.encode(conversation)
    copy = pickle.loads(pickle.dumps(ENCODER))
    assert all(torch.equal(value, copy.encode(conversation)[key]) for key, value in ENCODER.encode(conversation).items())
    assert copy.fingerprint == ENCODER.fingerprint and len(pickle.dumps(ENCODER)) < 1 << 20


def test_the_fingerprint_follows_what_decides(tmp_path: Path) -> None:
    template = (model_path() / "chat_template.jinja").read_text()
    changed = [
        ChatEncoder.of(load_processor(model_path()), 100),
        ChatEncoder.of(mini_processor(tmp_path / "a", template=template + "{# other #}"), 4096),
        ChatEncoder.of(mini_processor(tmp_path / "b", size=(4096, 8192)), 4096),
    ]
    assert len({encoder.fingerprint for encoder in (ENCODER, *changed)}) == 4
    assert ChatEncoder.of(mini_processor(tmp_path / "c"), 4096).fingerprint == ENCODER.fingerprint


HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TEXT = (
    "{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}"
)
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_a_template_that_trims(tmp_path: Path) -> None:
    encoder = ChatEncoder.of(mini_processor(tmp_path, template=HEAD + TEXT.replace("p.text", "p.text | trim") + TAIL), 100)
    sample, trimmed = (encoder.encode(talk("a", answer)) for answer in ("  b \n", "b"))
    assert sample["labels"].tolist() == trimmed["labels"].tolist()


def test_a_text_that_becomes_a_control_token_where_it_meets_the_template(tmp_path: Path) -> None:
    tail = "{% if m.role == 'user' %}|>{% endif %}" + TAIL
    encoder = ChatEncoder.of(mini_processor(tmp_path, template=HEAD + TEXT + tail), 100)
    assert encoder.measure(talk("a", "b"))[0]
    with pytest.raises(UnusableRecord, match="x: its text becomes a control token where it meets the template's"):
        encoder.encode(talk("a<|im_start", "b"))


THINKING = """
{%- for m in messages %}{% set text = m.content | map(attribute='text') | join %}
{%- if m.role == 'assistant' and loop.last %}
{%- if '</think>' in text %}{% set thoughts, text = text.split('</think>') %}{% else %}{% set thoughts = '' %}{% endif %}
{{- '<|im_start|>assistant\\n<think>\\n' + thoughts.split('<think>')[-1].strip('\\n') }}
{{- '\\n</think>\\n\\n' + text.lstrip('\\n') + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- for p in m.content if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endfor %}
{{- text.split('</think>')[-1] + '<|im_end|>\\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""


def test_a_template_that_thinks(tmp_path: Path) -> None:
    """As Qwen's Thinking models have it: the generation prompt opens the thoughts, and the answer begins with them, empty or not.
    History is written without them, otherwise than it was generated, so that its loss has no place."""
    encoder = ChatEncoder.of(mini_processor(tmp_path, template=THINKING), 200)
    for answer, said in (("four", "\n</think>\n\nfour<|im_end|>"), ("<think>\nso\n</think>\n\nfour", "so\n</think>\n\nfour<|im_end|>")):
        sample = encoder.encode(talk("two and two", answer))
        assert TOKENIZER.decode(sample["labels"][sample["labels"] >= 0].tolist(), skip_special_tokens=False) == said
    with pytest.raises(UnusableRecord, match="x: the chat template writes answer 1 differently from when it is generated"):
        encoder.encode(talk("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (HEAD + TEXT + TAIL.replace("<|im_end|>", ""), "end it with a control token"),
        (HEAD + TEXT + TAIL.replace("<|im_end|>", "{% if m.role == 'user' %}<|im_end|>{% endif %}"), "end it with a control token"),
        (HEAD + TEXT + TAIL.replace("assistant\n{% endif %}", "helper\n{% endif %}"), "differently from when it is generated"),
        (HEAD + TEXT + TAIL + "{{ messages | length }}", "differently from when it is generated"),
        (HEAD + TEXT.replace("<|image_pad|>", "") + TAIL, "writes 0 places for 1 images"),
        (HEAD + TEXT.replace("p.text", "p.text | upper") + TAIL, "does not write an answer unchanged"),
        (HEAD + TAIL, "does not write an answer unchanged"),
        ("{{ raise_exception('no') }}", "chat template cannot be used: no"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template cannot be used"),
        ("{{ ", "chat template cannot be used"),
    ],
)
def test_templates_that_cannot_be_trained_with(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        ChatEncoder.of(mini_processor(tmp_path, template=template), 100)
    assert "\n" not in str(caught.value)


def squares(encoder_size: tuple[int, int], most: int) -> dict[int, int]:
    """By hand: tokens of a square of n pixels a side, where least and most pixels hold and a token covers 16 x 16."""
    found = {}
    for side in (32, 64, 96, 128, 256):
        fitted = round(side / 16) * 16
        if fitted**2 > most:
            fitted = max(16, int(most**0.5 // 16) * 16)
        found[side] = max(fitted**2, encoder_size[0]) // 256
    return found


@pytest.mark.parametrize("room", [4096, 500, 330, 200, 150, 100, 60])
def test_the_largest_images_shrink_first(tmp_path: Path, room: int) -> None:
    """Images of 4, 16 and 256 tokens at their own size; the least is 32 x 32 pixels, 4 tokens."""
    size = (1024, 256 * 256)
    encoder = ChatEncoder.of(mini_processor(tmp_path, size=size), room)
    conversation = talk(((32, 32), (64, 64), (256, 256), "a"), "b")
    sample = encoder.encode(conversation)
    counts = [int(grid.prod()) // 4 for grid in sample["image_grid_thw"]]
    full = [4, 16, 256]
    words = len(by_hand(conversation, {(32, 32): 0, (64, 64): 0, (256, 256): 0})[0])
    # by hand: the largest square limit, in tokens a side, that leaves room
    best = max(side for side in range(2, 17) if words + sum(min(count, side**2) for count in full) <= room)
    assert counts == [min(count, best**2) for count in full]
    assert len(sample["input_ids"]) == words + sum(counts) <= room
    assert encoder.measure(conversation) == (len(sample["input_ids"]), counts != full)
    check(conversation, encoder, dict(zip([(32, 32), (64, 64), (256, 256)], counts)))


def test_too_long_whatever_the_images(tmp_path: Path) -> None:
    encoder = ChatEncoder.of(mini_processor(tmp_path, size=(1024, 65536)), 60)
    conversation = talk(((256, 256), "a " * 80), "b")
    least = len(by_hand(conversation, {(256, 256): 4})[0])
    for run in (encoder.encode, encoder.measure):
        with pytest.raises(TooLong, match=f"x: {least} tokens at least, more than 60"):
            run(conversation)
    with pytest.raises(TooLong):
        encoder.encode(talk("a " * 60, "b"))
    fitting = ChatEncoder.of(mini_processor(tmp_path / "b", size=(1024, 65536)), least)
    assert len(fitting.encode(conversation)["input_ids"]) == least


def test_images_that_cannot_be_used() -> None:
    with pytest.raises(UnusableRecord, match=r"x: the model's image processor refuses an image .*aspect ratio"):
        ENCODER.encode(talk(((2000, 3), "a"), "b"))
    broken: Any = Turn("user", (ImageRef(b"nonsense", None, "x"), "a"))
    with pytest.raises(UnusableRecord, match="x: not an image"):
        ENCODER.encode(Conversation("x", (broken, Turn("assistant", ("b",)))))


def sample(question: str, answer: str, *colors: str) -> dict[str, Tensor]:
    images = [ImageRef(Image.new("RGB", (64, 64), color), None, "x") for color in colors]
    return dict(ENCODER.encode(Conversation("x", (Turn("user", (*images, question)), Turn("assistant", (answer,))))))


SAMPLES = [sample("How many?", "3", "red"), sample("hello there, how are you", "well"), sample("a", "b", "blue", "green")]
PADDING = json.loads((model_path() / "config.json").read_text())["text_config"]["pad_token_id"]


def test_padded_on_the_right() -> None:
    batch = Collator.of(PROCESSOR)(SAMPLES)
    longest = max(len(one["input_ids"]) for one in SAMPLES)
    fillers = {"input_ids": PADDING, "labels": -100, "attention_mask": 0, "mm_token_type_ids": 0}
    for key, filler in fillers.items():
        expected = [one[key].tolist() + [filler] * (longest - len(one[key])) for one in SAMPLES]
        assert batch[key].tolist() == expected
    assert batch["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    assert torch.equal(batch["pixel_values"], torch.cat([SAMPLES[0]["pixel_values"], SAMPLES[2]["pixel_values"]]))
    assert set(Collator.of(PROCESSOR)([SAMPLES[1], SAMPLES[1]])) == set(fillers)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return load_model(model_path(), dtype=torch.float32)


@pytest.mark.parametrize("chosen", [(0, 1, 2), (1,), (1, 1), (2, 0), (1, 0)])
def test_the_models_loss_is_that_of_its_samples_alone(model: PreTrainedModel, chosen: tuple[int, ...]) -> None:
    """The mean over all answer tokens of a batch is that of the samples', weighted by their numbers."""
    collate = Collator.of(PROCESSOR)
    with torch.no_grad():
        losses = [(float(model(**collate([SAMPLES[one]])).loss), int((SAMPLES[one]["labels"] >= 0).sum())) for one in chosen]
        together = float(model(**collate([SAMPLES[one] for one in chosen])).loss)
    assert together == pytest.approx(sum(loss * count for loss, count in losses) / sum(count for _, count in losses), rel=1e-4)
