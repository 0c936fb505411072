"""How much faster a batch is asked than one question at a time, on mini, with the same answers.

    python examples/benchmarks/evaluate.py --rounds 5

Asks held-out questions of all nine subtasks as `hf-layerprune evaluate` does, in batches, and one at a time with transformers alone
and no padding; both in turn in every round, in fp32. Prints a table of medians, their ratio round by round, and whether the answers
are equal. Run it on a quiet machine: where other programs want the same cores, threads wait for each other.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from hf_layerprune.evaluation.answering import batches
from hf_layerprune.evaluation.generation import LoadedModel, Question, generate, ready
from hf_layerprune.evaluation.mini_task import MINI_TASKS, MiniTask
from hf_layerprune.mini import model_path
from hf_layerprune.models.batches import load_processor
from hf_layerprune.models.loading import load_model

Place = tuple[str, int]


def one_at_a_time(loaded: LoadedModel, tasks: Sequence[MiniTask]) -> dict[Place, str]:
    """transformers alone: its own generation config, one question, no padding."""
    answers: dict[Place, str] = {}
    processor: Any = loaded.processor
    model: Any = loaded.model
    for task in tasks:
        for sample in task.samples:
            content = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
            inputs = processor(text=[text], images=[task.images(sample.index)], return_tensors="pt")
            with torch.inference_mode():
                output = model.generate(**inputs, max_new_tokens=sample.max_new_tokens, do_sample=False)
            row = output[0, inputs["input_ids"].shape[1] :]
            answers[task.name, sample.index] = processor.tokenizer.decode(row, skip_special_tokens=True).strip()
    return answers


def in_batches(loaded: LoadedModel, tasks: Sequence[MiniTask], size: int) -> dict[Place, str]:
    """As the evaluator asks."""
    answers: dict[Place, str] = {}
    for task in tasks:
        for batch in batches(task, size):
            questions = [Question(sample.label, task.images(sample.index), sample.prompt) for sample in batch]
            said = generate(loaded, questions, batch[0].max_new_tokens)
            answers |= {(task.name, sample.index): one.text for sample, one in zip(batch, said)}
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=180, help="a domain, in batches")
    parser.add_argument("--alone", type=int, default=45, help="a domain, one at a time: the first ones of the same")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = ready(load_model(model_path(), dtype=torch.float32), load_processor(model_path()))
    many, few = ([MiniTask(name, count) for name in MINI_TASKS] for count in (options.samples, options.alone))
    seconds: dict[int, list[float]] = {size: [] for size in (1, *options.sizes)}
    equal = dict.fromkeys(options.sizes, True)
    in_batches(loaded, few, options.sizes[-1])  # the first pass allocates
    for _ in range(options.rounds):
        started = time.perf_counter()
        alone = one_at_a_time(loaded, few)
        seconds[1].append((time.perf_counter() - started) / len(alone))
        for size in options.sizes:
            started = time.perf_counter()
            batched = in_batches(loaded, many, size)
            seconds[size].append((time.perf_counter() - started) / len(batched))
            equal[size] &= all(batched[place] == text for place, text in alone.items())
    print(f"mini, fp32, {options.threads} threads, {platform.machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{2 * options.samples} questions in batches, {2 * options.alone} of them one at a time, median of {options.rounds} rounds\n")
    print("| questions at once | ms a question | times as fast | answers |\n|---|---|---|---|")
    for size, found in seconds.items():
        ratio = statistics.median(one / batched for one, batched in zip(seconds[1], found))
        same = "" if size == 1 else "equal" if equal[size] else "DIFFERENT"
        print(f"| {size} | {1000 * statistics.median(found):.1f} | {ratio:.1f} | {same} |")


if __name__ == "__main__":
    main()
