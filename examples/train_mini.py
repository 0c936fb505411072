"""Train the embedded mini Qwen3-VL from nothing: tokenizer, processor files, weights, and its held-out accuracy.

    python examples/train_mini.py --output build/mini

The result is what `hf_layerprune/mini/model/` holds; the accuracy and how long it took are in `cards/mini/training.json`. Run again
after an interruption, it resumes from its last checkpoint. It needs a C++ compiler (torch.compile); `--eager` does without.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.mini.generator import MINI_PIXELS, Example, draw_content, draw_example
from hf_layerprune.mini.problems import Problem

SUBTASKS = [name for domain in DOMAINS for name in subtasks(domain)]


@dataclass(frozen=True)
class Phase:
    """Up to the step `until`: images and rows of arithmetic in plain text a step, the share of problems in two steps, and how often
    each subtask is drawn."""

    until: int
    images: int
    rows: int
    two_steps: float
    weights: tuple[float, ...]


PHASES = (
    Phase(1000, 32, 0, 0.3, (1.0, 1.0, 2.0, 2.0, 0.5, 2.0, 2.0, 1.0, 1.0)),  # dense answers teach to see,
    Phase(3000, 32, 0, 0.3, (2.0, 5.0, 0.3, 0.4, 0.4, 1.2, 1.3, 0.5, 0.5)),
    Phase(4500, 16, 8, 0.3, (2.0, 5.0, 0.3, 0.4, 0.4, 1.2, 1.3, 0.5, 0.5)),  # plain text to calculate, at few tokens a problem,
    Phase(5500, 20, 2, 0.3, (1.5, 3.5, 0.2, 0.2, 0.3, 2.0, 2.0, 0.3, 0.5)),  # and then both
    Phase(10000, 20, 2, 0.15, (1.2, 4.8, 0.2, 0.2, 0.3, 1.8, 2.0, 0.3, 0.5)),
)
BLEND = 1500  # steps that the first change of weights takes
PROBLEMS = 24  # a row of text
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.type == 'text' %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
PATCH, MERGE, TEMPORAL = 8, 2, 2
PATCHES = (MINI_PIXELS // PATCH) ** 2
IMAGE_TOKENS = PATCHES // MERGE**2


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE with Qwen's splitting rule (one digit a token), trained until each word of the domains is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    examples = [draw_example(name, "train", i, two_steps=PHASES[0].two_steps) for name in SUBTASKS for i in range(400)]
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*(e.question for e in examples), *(e.answer for e in examples), "user\nassistant\nsystem\n"], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def build_config(tokenizer: Tokenizer) -> Qwen3VLConfig:
    token = tokenizer.token_to_id
    return Qwen3VLConfig(
        text_config={
            "vocab_size": math.ceil(tokenizer.get_vocab_size() / 16) * 16,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "initializer_range": 0.05,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "out_hidden_size": 128,
            "num_position_embeddings": PATCHES,
            "initializer_range": 0.08,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        architectures=["Qwen3VLForConditionalGeneration"],
    )


def write_side_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Everything a Qwen3-VL folder holds beside config and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    pixels = {"shortest_edge": MINI_PIXELS**2, "longest_edge": MINI_PIXELS**2}
    shared = {
        "size": pixels,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor",
    }
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "processor_class": "Qwen3VLProcessor",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "model_max_length": 2048,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        },
        "preprocessor_config.json": shared | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": shared | {"video_processor_type": "Qwen3VLVideoProcessor"},
        "generation_config.json": {
            "do_sample": False,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")],
            "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


class Batcher:
    """Examples to tensors: right-padded, with the positions (3-axis RoPE) and labels of the answers alone."""

    def __init__(self, tokenizer: Tokenizer, config: Qwen3VLConfig) -> None:
        self.encode = lambda text: tokenizer.encode(text).ids
        self.config = config
        self.pad = config.text_config.pad_token_id
        self.prefix = self.encode("<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>")
        self.suffix = self.encode("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self.encode("<|im_end|>\n")
        self.questions: dict[str, list[int]] = {}

    def prompt(self, question: str) -> list[int]:
        if question not in self.questions:
            self.questions[question] = [*self.prefix, *self.encode(question), *self.suffix]
        return self.questions[question]

    def by_length(self, examples: list[Example], parts: int) -> list[dict[str, torch.Tensor]]:
        """The examples in `parts` batches of like length, so that little is padding."""
        ordered = sorted(examples, key=lambda e: len(self.prompt(e.question)) + len(self.encode(e.answer)))
        step = math.ceil(len(ordered) / parts)
        return [self(ordered[start : start + step]) for start in range(0, len(ordered), step)]

    def __call__(self, examples: list[Example], answers: bool = True) -> dict[str, torch.Tensor]:
        prompts = [self.prompt(example.question) for example in examples]
        full = [p + (self.encode(e.answer) + self.end if answers else []) for p, e in zip(prompts, examples)]
        longest = max(map(len, full))
        ids = torch.full((len(full), longest), self.pad)
        labels = torch.full((len(full), longest), -100)
        for row, (prompt, whole) in enumerate(zip(prompts, full)):
            ids[row, : len(whole)] = torch.tensor(whole)
            labels[row, len(prompt) : len(whole)] = ids[row, len(prompt) : len(whole)]
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": self.positions(longest).expand(-1, len(full), -1),
            "pixel_values": patchify(np.stack([np.asarray(example.image) for example in examples])),
            "image_grid_thw": torch.tensor([[1, MINI_PIXELS // PATCH, MINI_PIXELS // PATCH]] * len(full)),
            "mm_token_type_ids": (ids == self.config.image_token_id).int(),
        }

    def lines(self, problems: list[Problem], rows: int) -> dict[str, torch.Tensor]:
        """Problems in plain text, "37+25=62. 9-4+1=6. ", in rows of as many; the results alone are labels."""
        step = len(problems) // rows
        encoded = []
        for start in range(0, len(problems), step):
            ids, labels = [self.pad], [-100]
            for problem in problems[start : start + step]:
                asked = self.encode(f"{problem.first}{''.join(f'{operator}{number}' for operator, number in problem.steps)}=")
                answer, space = self.encode(f"{problem.values()[-1]}."), self.encode(" ")
                ids += [*asked, *answer, *space]
                labels += [-100] * len(asked) + answer + [-100] * len(space)
            encoded.append((ids, labels))
        longest = max(len(ids) for ids, _ in encoded)
        padded = [(ids + [self.pad] * (longest - len(ids)), labels + [-100] * (longest - len(ids))) for ids, labels in encoded]
        return {
            "input_ids": torch.tensor([ids for ids, _ in padded]),
            "labels": torch.tensor([labels for _, labels in padded]),
            "position_ids": torch.arange(longest).expand(3, rows, -1),
        }

    def positions(self, length: int) -> torch.Tensor:
        """Qwen3-VL's positions where one square image stands at the same place in every row: text, grid, text."""
        side, before = math.isqrt(IMAGE_TOKENS), self.prefix.index(self.config.image_token_id)
        after = before + IMAGE_TOKENS
        positions = torch.arange(length).expand(3, 1, -1).clone()
        grid = torch.arange(IMAGE_TOKENS)
        positions[:, 0, before:after] = before + torch.stack([grid * 0, grid // side, grid % side])
        positions[:, 0, after:] += side - IMAGE_TOKENS
        return positions


def patchify(images: np.ndarray) -> torch.Tensor:
    """uint8 [n, h, w, 3] to Qwen2-VL's flat patches [n * patches, 3 * TEMPORAL * PATCH**2], in merge-block order."""
    pixels = torch.from_numpy(images).float().div(127.5).sub(1).permute(0, 3, 1, 2)
    blocks = MINI_PIXELS // PATCH // MERGE
    split = pixels.reshape(len(images), 3, blocks, MERGE, PATCH, blocks, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return split.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, TEMPORAL, -1, -1).reshape(len(images) * PATCHES, -1)


def accuracy(model: Qwen3VLForConditionalGeneration, batcher: Batcher, tokenizer: Tokenizer, split: str, count: int) -> dict[str, float]:
    """Exact match of the greedy answer per subtask, with weights rounded to bf16; the model is left as it was."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    scores = {}
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16).float())
        for name in SUBTASKS:
            correct = 0
            for start in range(0, count, 100):
                examples = [draw_example(name, split, i) for i in range(start, min(start + 100, count))]
                batch = batcher(examples, answers=False)  # all of one length, being one prompt
                del batch["labels"], batch["position_ids"]
                output = model.generate(**batch, max_new_tokens=48, do_sample=False)
                texts = tokenizer.decode_batch(output[:, batch["input_ids"].shape[1] :].tolist())
                correct += sum(text.strip() == example.answer for text, example in zip(texts, examples))
            scores[name] = correct / count
        for name, p in model.named_parameters():
            p.copy_(kept[name])
    return scores


def phase_at(step: int) -> Phase:
    return next((phase for phase in PHASES if step < phase.until), PHASES[-1])


def weights_at(step: int) -> list[float]:
    """How often each subtask is drawn: the phase's weights, after the first phase blended with those before it."""
    share = min(max((step - PHASES[0].until) / BLEND, 0.0), 1.0)
    new = phase_at(max(step, PHASES[0].until)).weights
    return [(1 - share) * old + share * now for old, now in zip(PHASES[0].weights, new)]


def backward(model: Qwen3VLForConditionalGeneration, batches: list[dict[str, torch.Tensor]]) -> float:
    """Add the gradient of the mean loss over the answers' tokens of all batches, and return that mean."""
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch) / tokens
        loss.backward()
        total += loss.item()
    return total


def loss_of(model: Qwen3VLForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed cross-entropy of the answers' tokens."""
    labels = batch.pop("labels")[:, 1:]
    hidden = model.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    answers = labels != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[answers]), labels[answers], reduction="sum")


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    write_side_files(options.output, tokenizer)
    model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    if not options.eager:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=True)
    batcher = Batcher(tokenizer, config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=options.lr, betas=(0.9, 0.98), fused=True
    )
    warmup = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.51 + 0.5 * math.cos(math.pi * s / options.steps))
    )
    state = {"step": 0, "seconds": 0.0, "drawn": dict.fromkeys(SUBTASKS, 0), "written": 0}
    state |= {"curve": [], "text": [], "validation": [], "phases": []}
    path = options.output / "state.pt"
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
        schedule.load_state_dict(state.pop("schedule"))
        print(f"resumed at step {state['step']}", flush=True)
    curve, text, drawn, written = state["curve"], state["text"], state["drawn"], state["written"]
    started = time.time() - state["seconds"]
    for step in range(state["step"], options.steps):
        rng, phase = random.Random(f"{options.seed}/{step}"), phase_at(step)
        examples = []
        for name in rng.choices(SUBTASKS, weights_at(step), k=phase.images):
            examples.append(draw_example(name, "train", drawn[name], seed=options.seed, two_steps=phase.two_steps))
            drawn[name] += 1
        optimizer.zero_grad(set_to_none=True)
        curve.append(backward(model, batcher.by_length(examples, parts=2)))
        if phase.rows:
            places = range(written, written := written + phase.rows * PROBLEMS)
            problems = [draw_content("math-direct", "train", i, seed=options.seed, two_steps=phase.two_steps)[0] for i in places]
            text.append(backward(model, [batcher.lines(problems, phase.rows)]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % options.report == 0:
            recent = sum(curve[-options.report :]) / options.report
            in_text = f", in text {sum(text[-options.report :]) / options.report:.4f}" if len(text) >= options.report else ""
            print(f"step {step + 1} loss {recent:.4f}{in_text} {time.time() - started:.0f} s", flush=True)
        if step + 1 == phase.until:
            state["phases"].append({**asdict(phase), "samples": dict(drawn), "problems_in_text": written})
        if (step + 1) % options.checkpoint == 0:
            state |= {"step": step + 1, "seconds": time.time() - started, "written": written}
            state["validation"].append({"step": step + 1, "exact_match": accuracy(model, batcher, tokenizer, "validate", 100)})
            print(step + 1, state["validation"][-1], flush=True)
            trained = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state | trained, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
    state |= {"seconds": time.time() - started, "exact_match": accuracy(model, batcher, tokenizer, "evaluate", 500)}
    save(model, config, options, state)


def save(model, config, options, state) -> None:
    """Write bf16 weights and config as a Hub checkpoint, and the record of the training."""
    rounded = {name: p.detach().to(torch.bfloat16) for name, p in model.state_dict().items() if name != "lm_head.weight"}
    save_file(rounded, options.output / "model.safetensors", metadata={"format": "pt"})
    config.dtype = "bfloat16"
    (options.output / "config.json").write_text(config.to_json_string(use_diff=False))
    machine = platform.processor() or platform.machine()
    arithmetic = "bf16" if options.eager else "bf16, compiled"
    record = {
        "seed": options.seed,
        "steps": options.steps,
        "phases": state["phases"],  # samples and problems_in_text: drawn by the end of the phase
        "lr": options.lr,
        "samples": state["drawn"],
        "problems_in_text": state["written"],
        "seconds": round(state["seconds"]),
        "machine": f"{torch.get_num_threads()} threads, {machine}, torch {torch.__version__}, {arithmetic}",
        "held_out_exact_match": state["exact_match"],
        "samples_per_subtask": 500,
        "validation": state["validation"],
        "loss": means_of_100(state["curve"]),
        "loss_in_text": means_of_100(state["text"]),
    }
    (options.output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print({k: round(v, 3) for k, v in state["exact_match"].items()}, flush=True)


def means_of_100(curve: list[float]) -> list[float]:
    return [round(sum(part) / len(part), 4) for part in (curve[start : start + 100] for start in range(0, len(curve), 100))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=PHASES[-1].until)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=50)
    parser.add_argument("--checkpoint", type=int, default=500)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
