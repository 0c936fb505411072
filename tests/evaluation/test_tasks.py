"""Tasks: mini's held-out draws, and strangers' records with all that can be wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_layerprune.artifacts.prompts import subtasks
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import DataError, UsageError
from hf_layerprune.evaluation.answering import batches
from hf_layerprune.evaluation.mini_task import MiniTask
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.evaluation.samples import Task
from hf_layerprune.evaluation.tasks import check_names, open_tasks
from hf_layerprune.mini import comes_from_mini
from hf_layerprune.mini.generator import draw_example

Write = Any
GOOD = {"question": "How many?", "image": "0.png", "answer": "3"}


def opened(name: object, checkpoint: Checkpoint, **options: Any) -> Task:
    (task,) = open_tasks(checkpoint, EvaluateOptions(str(name), **options), print)
    return task


def test_minis_tasks_are_the_held_out_draws(mini_checkpoint: Checkpoint) -> None:
    task = opened("mini-math", mini_checkpoint, samples=12)
    assert Counter(sample.subtask for sample in task.samples) == dict(zip(subtasks("math"), (3, 3, 2, 2, 2)))
    for sample in task.samples:
        example = draw_example(sample.subtask, "evaluate", sample.index // 5)
        assert (sample.prompt, sample.answers) == (example.question, (example.answer,))
        assert task.images(sample.index)[0].tobytes() == example.image.tobytes()


def test_the_default_is_500_a_domain(mini_checkpoint: Checkpoint) -> None:
    math, general = open_tasks(mini_checkpoint, EvaluateOptions(), print)
    assert (math.name, general.name) == ("mini-math", "mini-general")
    assert isinstance(math, MiniTask) and isinstance(general, MiniTask) and math.count == general.count == 500
    longest = max(
        len(draw_example(name, "evaluate", number).answer) for name in (*subtasks("math"), *subtasks("nonmath")) for number in range(30)
    )
    assert longest < 250 and math.max_new_tokens == 48


def test_who_comes_from_mini(mini_checkpoint: Checkpoint, short: Path, tmp_path: Path) -> None:
    assert comes_from_mini(mini_checkpoint.path) and comes_from_mini(short)
    from tests.tiny_checkpoint import make_checkpoint

    stranger = Checkpoint.open(make_checkpoint(tmp_path / "tiny"), "tiny")
    assert not comes_from_mini(stranger.path)
    for refused in (lambda: open_tasks(stranger, EvaluateOptions(), print), lambda: check_names([], stranger.facts)):
        with pytest.raises(UsageError, match=r'--tasks is missing: tiny .*"question".*--tasks questions\.jsonl'):
            refused()
    check_names([], mini_checkpoint.facts)
    check_names(["x.jsonl"], stranger.facts)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["mini-maths"], "Did you mean 'mini-math'"),
        (["mini"], "the tasks of mini are mini-math and mini-general"),
        (["mini-math", "mini-math"], "'mini-math' is given twice"),
        (["mini-math,count=3"], "--samples says how many"),
        (["q.jsonl,cuont=3"], "cuont"),
    ],
)
def test_names_that_cannot_be_meant(mini_checkpoint: Checkpoint, names: list[str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        open_tasks(mini_checkpoint, EvaluateOptions(names), print)


def test_options_that_cannot_be_meant() -> None:
    for wrong in ({"samples": 0}, {"samples": -1}, {"max_new_tokens": 0}, {"max_new_tokens": 1 << 20}, {"scorer": "bleu"}):
        with pytest.raises(UsageError):
            EvaluateOptions(**wrong)  # type: ignore[arg-type]


def test_more_samples_than_mini_has_problems(mini_checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"--samples 10001: at most 10,000 of mini-math: .* more draws repeat them"):
        open_tasks(mini_checkpoint, EvaluateOptions(samples=10_001), print)
    assert len(opened("mini-general", mini_checkpoint, samples=400).samples) == 400


def test_a_task_of_ones_own(mini_checkpoint: Checkpoint, write_task: Write) -> None:
    lines = [
        GOOD,
        {**GOOD, "answer": ["3", "three"], "subtask": "counting", "image": "1.png"},
        {**GOOD, "choices": ["cat", "dog"], "answer": 1, "category": "pets"},
        {**GOOD, "answer": 3.5, "scorer": "relaxed"},
        {**GOOD, "choices": ["cat", "dog"], "answer": "A", "max_new_tokens": "ignored"},
    ]
    task = opened(write_task(lines), mini_checkpoint)
    assert [sample.answers for sample in task.samples] == [("3",), ("3", "three"), ("dog",), ("3.5",), ("A",)]
    assert [sample.scorer for sample in task.samples] == ["exact", "exact", "choice", "relaxed", "choice"]
    assert [sample.subtask for sample in task.samples] == ["questions.jsonl", "counting", "pets", "questions.jsonl", "questions.jsonl"]
    assert [sample.max_new_tokens for sample in task.samples] == [256, 256, 32, 256, 32]
    wanted = "How many?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    assert task.samples[2].prompt == wanted and task.samples[0].prompt == "How many?"
    assert task.images(1)[0].getpixel((0, 0)) == (60, 90, 200)
    assert task.record().spec == "questions.jsonl" and str(write_task(lines)) not in json.dumps(asdict(task.record()))
    forced = opened(write_task(lines[:2]), mini_checkpoint, scorer="relaxed", max_new_tokens=7)
    assert [(sample.scorer, sample.max_new_tokens) for sample in forced.samples] == [("relaxed", 7)] * 2


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: a JSON list"),
        ({"image": "0.png", "answer": "3"}, "line 2: no field 'question'; a task needs question, image, answer, and it has image, answer"),
        ({"question": "?", "image": "0.png"}, "line 2: no field 'answer'"),
        ({**GOOD, "videos": ["clip.mp4"]}, "line 2: it has 'videos'; only images and text can be used"),
        ({**GOOD, "answer": None}, "line 2: no field 'answer'"),
        ({**GOOD, "answer": []}, "line 2: 'answer' is"),
        ({**GOOD, "answer": {"a": 1}}, "line 2: 'answer' is"),
        ({**GOOD, "answer": True}, "line 2: 'answer' is"),
        ({**GOOD, "question": "  "}, "line 2: 'question' is"),
        ({**GOOD, "question": 5}, "line 2: 'question' is 5"),
        ({**GOOD, "scorer": "bleu"}, "line 2: no scorer 'bleu'; known are exact"),
        ({**GOOD, "scorer": "choice"}, "line 2: 0 'choices'"),
        ({**GOOD, "choices": ["x"], "answer": "A"}, "line 2: 1 'choices'"),
        ({**GOOD, "choices": ["x", "y"], "answer": "C"}, "line 2: the answer 'C' is none of the choices"),
        ({**GOOD, "choices": ["x", "y"], "answer": 2}, "line 2: answer 2 is not one of 2 choices"),
        ({**GOOD, "choices": "x"}, "line 2: 1 'choices'"),
        ({**GOOD, "subtask": ["a"]}, "line 2: the subtask is"),
    ],
)
def test_a_bad_line_is_named_and_left_out(mini_checkpoint: Checkpoint, write_task: Write, line: Any, word: str) -> None:
    task = opened(write_task([GOOD, line, GOOD]), mini_checkpoint)
    assert [sample.index for sample in task.samples] == [0, 2]
    ((_, reason),) = task.unusable.values()
    assert f"questions.jsonl, {word}" in reason and "\n" not in reason


def test_pictures_that_are_none(mini_checkpoint: Checkpoint, write_task: Write, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"")
    places = ["missing.png", "../outside.png", "/etc/passwd", "questions.jsonl", 5]
    task = opened(write_task([{**GOOD, "image": place} for place in places]), mini_checkpoint)
    for index in range(len(places)):
        with pytest.raises(UnusableRecord, match=f"line {index + 1}"):
            task.images(index)


def test_urls_are_refused_before_the_model_loads(mini_checkpoint: Checkpoint, write_task: Write) -> None:
    path = write_task([GOOD, {**GOOD, "image": "https://example.org/x.png"}])
    with pytest.raises(DataError, match=r"line 2.*is a URL; download the images first"):
        _ = opened(path, mini_checkpoint).samples


def test_more_samples_than_there_are(mini_checkpoint: Checkpoint, write_task: Write) -> None:
    path = write_task([{**GOOD, "question": str(number)} for number in range(20)])
    with pytest.raises(DataError, match=r"20 records, fewer than --samples 21.*--allow-fewer"):
        opened(path, mini_checkpoint, samples=21)
    assert len(opened(path, mini_checkpoint, samples=21, allow_fewer=True).samples) == 20
    some = opened(path, mini_checkpoint, samples=6)
    assert len({sample.question for sample in some.samples}) == 6
    assert opened(path, mini_checkpoint, samples=6).digest == some.digest != opened(path, mini_checkpoint, samples=6, seed=1).digest


def test_the_digest_changes_with_everything(mini_checkpoint: Checkpoint, write_task: Write) -> None:
    path = write_task([GOOD, GOOD])
    digests = [opened(path, mini_checkpoint).digest]
    Image.new("RGB", (64, 64), "green").save(path.parent / "0.png")
    digests.append(opened(path, mini_checkpoint).digest)
    (path.parent / "0.png").unlink()
    digests.append(opened(path, mini_checkpoint).digest)
    digests += [opened(path, mini_checkpoint, **change).digest for change in ({"scorer": "relaxed"}, {"max_new_tokens": 9})]
    path.write_text(json.dumps(GOOD) + "\n")
    digests.append(opened(path, mini_checkpoint).digest)
    digests += [opened("mini-math", mini_checkpoint, **c).digest for c in ({}, {"samples": 9}, {"seed": 1}, {"max_new_tokens": 9})]
    digests.append(opened("mini-general", mini_checkpoint).digest)
    assert len(set(digests)) == len(digests)


def test_batches_hold_what_is_alike(mini_checkpoint: Checkpoint, write_task: Write) -> None:
    task = opened("mini-math", mini_checkpoint, samples=100)
    found = list(batches(task, 16))
    assert sorted(sample.index for batch in found for sample in batch) == list(range(100))
    assert all(len({sample.subtask for sample in batch}) == 1 and len(batch) <= 16 for batch in found) and len(found) == 10
    lines = [{**GOOD, "question": "x" * (50 - number), "subtask": str(number)} for number in range(30)]
    few = list(batches(opened(write_task(lines), mini_checkpoint), 16))  # thirty subtasks of one sample: by length alone
    assert [len(batch) for batch in few] == [16, 14] and [sample.index for batch in few for sample in batch] == list(range(29, -1, -1))
