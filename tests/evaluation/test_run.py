"""A whole evaluation: what is written where, what is asked again, and that every number follows from the answers."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerprune import LayerPruner
from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.verify import verify
from hf_layerprune.errors import CheckpointError, DataError, EvaluationError, LayerPruneError, ModelError, UsageError
from hf_layerprune.evaluation import generation
from hf_layerprune.evaluation.outputs import default_output
from hf_layerprune.mini import model_path
from tests.evaluation.evaluating import evaluate_model
from tests.tiny_checkpoint import make_checkpoint

Write = Any
GOOD = {
    "question": "Question: How many main objects are visible in the image? Answer with a single number.",
    "image": "0.png",
    "answer": "3",
}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The sizes of the batches that a model was asked; commands run in an empty folder."""
    sizes: list[int] = []
    ask = generation._generate

    def counted(loaded: Any, questions: Any, budget: int) -> Any:
        sizes.append(len(questions))
        return ask(loaded, questions, budget)

    monkeypatch.setattr(generation, "_generate", counted)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return sizes


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"answers_folder": tmp_path / "kept", "say": lambda line: None}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:]


def test_every_number_follows_from_the_answers(short: Path, options: dict[str, Any], tmp_path: Path) -> None:
    """Counted again from the two files of answers, with nothing of the package but the report's file."""
    checkpoint = Checkpoint.open(short, "short")
    evaluate_model(checkpoint, against="mini", samples=45, output=tmp_path / "out", **options)
    report = json.loads((tmp_path / "out" / "eval.json").read_text())
    model, other = (lines(tmp_path / "out" / name) for name in ("answers.jsonl", "answers-against.jsonl"))
    assert len(model) == len(other) == 90
    pairs: dict[tuple[str, str | None], list[tuple[bool, bool]]] = defaultdict(list)
    for one, two in zip(model, other):
        assert [one[key] for key in ("task", "index", "subtask", "question")] == [
            two[key] for key in ("task", "index", "subtask", "question")
        ]
        assert one["score"] == (one["text"].lower() == one["expected"][0].lower()) or one["text"].endswith(".")
        pairs[one["task"], one["subtask"]].append((one["score"], two["score"]))
        pairs[one["task"], None].append((one["score"], two["score"]))
    found = {(task, name): row for task, scores in report["scores"].items() for name, row in scores["subtasks"].items()}
    found |= {(task, None): scores["whole"] for task, scores in report["scores"].items()}
    assert found.keys() == pairs.keys() and len(found) == 11
    assert sum(not one for rows in pairs.values() for one, _ in rows) > sum(not two for rows in pairs.values() for _, two in rows)
    for place, answers in pairs.items():
        count, row = len(answers), found[place]
        totals = [int(sum(pair[side] for pair in answers)) for side in (0, 1)]
        for correct, side in zip(totals, ("model", "against")):
            share = Fraction(correct, count)
            assert (row[side]["samples"], row[side]["correct"]) == (count, correct)
            assert row[side]["mean"] == pytest.approx(float(share))
            assert row[side]["standard_error"] == pytest.approx(math.sqrt(share * (1 - share) / count))
        up, down = answers.count((True, False)), answers.count((False, True))
        coins = sum(math.comb(up + down, k) for k in range(up + down + 1) if abs(2 * k - up - down) >= abs(up - down))
        assert row["paired"]["p"] == pytest.approx(float(Fraction(coins, 2 ** (up + down))))
        assert row["paired"]["difference"] == pytest.approx((totals[0] - totals[1]) / count)
        mean = (up - down) / count
        assert row["paired"]["standard_error"] == pytest.approx(math.sqrt(((up + down) / count - mean**2) / count))


def test_in_a_folder_that_we_made(short: Path, tmp_path: Path, options: dict[str, Any], asked: list[int]) -> None:
    """The records lie beside the others, the model is as it was, and a second time nothing is done at all."""
    ours = tmp_path / "ours"
    shutil.copytree(short, ours)
    before = contents(ours)
    report = LayerPruner.from_pretrained(ours, statistics_folder=None).evaluate(samples=9, **options)
    after = contents(ours)
    assert after.keys() - before.keys() == {"layerprune/eval.json", "layerprune/answers.jsonl"}
    assert all(after[name] == content for name, content in before.items()) and verify(ours).ok
    assert report == EvalReport.load(ours / "layerprune" / "eval.json") and not list(Path().iterdir())
    asked.clear()
    times = {path: path.stat().st_mtime_ns for path in ours.rglob("*")}
    again = LayerPruner.from_pretrained(ours, statistics_folder=None).evaluate(samples=9, answers_folder=tmp_path / "other")
    assert again == report and not asked and times == {path: path.stat().st_mtime_ns for path in ours.rglob("*")}
    with pytest.raises(EvaluationError, match=r"eval\.json exists, of other models, samples or settings.*overwrite=True"):
        LayerPruner.from_pretrained(ours, statistics_folder=None).evaluate(samples=18, **options)
    assert contents(ours) == after and not asked
    more = LayerPruner.from_pretrained(ours, statistics_folder=None).evaluate(samples=18, overwrite=True, **options)
    assert more.row("mini-math").model.samples == 18 and verify(ours).ok


def test_never_into_an_untrusted_folder(mini_checkpoint: Checkpoint, short: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    before = contents(model_path())
    evaluate_model(mini_checkpoint, "mini-general", samples=4, **options)
    assert sorted(path.name for path in Path("mini-eval").iterdir()) == ["answers.jsonl", "eval.json"] and contents(model_path()) == before
    cache = tmp_path / "hub" / "models--me--short"
    shutil.copytree(short, cache / "snapshots" / "abc")
    cached = Checkpoint.open(cache / "snapshots" / "abc", "abc")
    assert default_output(cached) == Path("abc-eval") and default_output(Checkpoint.open(short, "me/short", "abc")) == Path("short-eval")
    linked = tmp_path / "linked"
    shutil.copytree(short, linked)
    shutil.move(linked / "layerprune", tmp_path / "elsewhere")
    (linked / "layerprune").symlink_to(tmp_path / "elsewhere")
    assert default_output(Checkpoint.open(linked, "linked")) == Path("linked-eval")


@pytest.mark.parametrize(
    "kind", ["file", "full folder", "look-alike", "link", "in the source", "the source", "a file above it", "folder for a file"]
)
def test_outputs_that_are_refused(short: Path, tmp_path: Path, options: dict[str, Any], asked: list[int], kind: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(short, source)
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "full folder":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    elif kind == "look-alike":
        out.mkdir()
        (out / "answers.jsonl").write_text('{"question": 1}\n')
    elif kind == "link":
        (tmp_path / "there").mkdir()
        out.symlink_to(tmp_path / "there")
    elif kind == "folder for a file":
        out = source / "layerprune"
        (out / "eval.json").mkdir()
    else:
        out = {"in the source": source / "new", "the source": source, "a file above it": source / "config.json" / "b"}[kind]
    before = contents(tmp_path)
    with pytest.raises(LayerPruneError) as caught:
        evaluate_model(Checkpoint.open(source, "source"), samples=9, output=out, overwrite=True, **options)
    assert contents(tmp_path) == before and not asked and "\n" not in str(caught.value)


def test_answers_are_reused_whatever_they_are_compared_with(short: Path, tmp_path: Path, options: dict[str, Any], asked: list[int]) -> None:
    checkpoint = Checkpoint.open(short, "short")
    evaluate_model(Checkpoint.open(model_path(), "mini"), "mini-general", samples=8, output=tmp_path / "mini", **options)
    asked.clear()
    report = evaluate_model(checkpoint, "mini-general", samples=8, against="mini", output=tmp_path / "out", **options)
    assert sum(asked) == 8 and report.against is not None and report.against.id == "mini"
    asked.clear()
    evaluate_model(checkpoint, "mini-general", samples=8, output=tmp_path / "alone", **options)
    evaluate_model(Checkpoint.open(model_path(), "mini"), "mini-general", samples=8, against=short, output=tmp_path / "back", **options)
    assert not asked
    assert contents(tmp_path / "back")["answers.jsonl"] == contents(tmp_path / "out")["answers-against.jsonl"]
    evaluate_model(checkpoint, "mini-general", samples=8, output=tmp_path / "fresh", answers_folder=tmp_path / "none", say=print)
    assert sum(asked) == 8  # nothing is found in an empty folder
    assert contents(tmp_path / "fresh")["answers.jsonl"] == contents(tmp_path / "alone")["answers.jsonl"]


@pytest.mark.parametrize("tear", ["in a line", "at a line's end", "a damaged line", "the first line", "nothing"])
def test_a_torn_file_of_answers(tmp_path: Path, options: dict[str, Any], asked: list[int], mini_checkpoint: Checkpoint, tear: str) -> None:
    evaluate_model(mini_checkpoint, "mini-general", samples=16, batch_size=4, output=tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")["answers.jsonl"]
    (kept,) = (tmp_path / "kept").iterdir()
    every = kept.read_bytes().splitlines(keepends=True)
    torn, again = {
        "in a line": (b"".join(every[:9]) + every[9][:40], 8),
        "at a line's end": (b"".join(every[:9]) + every[9].rstrip(), 8),
        "a damaged line": (b"".join([*every[:5], b'{"task": 3}\n', b"\xff\n", *every[7:]]), 2),
        "the first line": (every[0][:50], 16),
        "nothing": (b"", 16),
    }[tear]
    kept.write_bytes(torn)
    asked.clear()
    evaluate_model(mini_checkpoint, "mini-general", samples=16, batch_size=4, output=tmp_path / "again", **options)
    assert sum(asked) == again and contents(tmp_path / "again")["answers.jsonl"] == whole


def test_answers_do_not_depend_on_the_batch(tmp_path: Path, mini_checkpoint: Checkpoint, asked: list[int]) -> None:
    files = []
    for size in (5, 64):
        evaluate_model(
            mini_checkpoint, samples=18, batch_size=size, output=tmp_path / str(size), answers_folder=tmp_path / f"kept {size}", say=print
        )
        files.append(lines(tmp_path / str(size) / "answers.jsonl"))
    assert files[0] == files[1] and max(asked) == 18 and [one["index"] for one in files[0]] == [*range(18), *range(18)]


def test_out_of_memory_halves_the_batch(
    tmp_path: Path, options: dict[str, Any], asked: list[int], mini_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more than three questions do not fit: said once, and smaller batches from then on."""
    said: list[str] = []
    ask = generation._generate

    def small(loaded: Any, questions: Any, budget: int) -> Any:
        if len(questions) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return ask(loaded, questions, budget)

    monkeypatch.setattr(generation, "_generate", small)
    report = evaluate_model(
        mini_checkpoint, "mini-general", samples=24, batch_size=6, output=tmp_path / "out", **{**options, "say": said.append}
    )
    assert said == ["out of memory: going on with batches of 3"] and sum(asked) == 24 and report.model.environment.batch == 3
    monkeypatch.setattr(
        generation, "_generate", lambda *rest: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    )
    with pytest.raises(EvaluationError, match=r"mini-general, .*out of memory with a single question.*--dtype bfloat16"):
        evaluate_model(mini_checkpoint, "mini-general", samples=3, output=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(generation, "_generate", lambda *rest: (_ for _ in ()).throw(RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        evaluate_model(mini_checkpoint, "mini-general", samples=3, output=tmp_path / "none", **options)


def test_bad_records_are_counted_up_to_the_limit(
    write_task: Write, tmp_path: Path, options: dict[str, Any], mini_checkpoint: Checkpoint
) -> None:
    records = [{**GOOD, "image": f"{number % 4}.png"} for number in range(7)]
    path = write_task(
        [*records[:2], {"question": "?", "image": "0.png"}, *records[2:], {**GOOD, "image": "bad.png"}, {**GOOD, "image": "2.png"}]
    )
    (path.parent / "bad.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError,
        match=r"line 3: no field 'answer'.*That makes 1 unusable of 10 records of \S+, more than the 0 that --max-bad 1% allows",
    ):
        evaluate_model(mini_checkpoint, str(path), output=tmp_path / "out", **options)
    with pytest.raises(DataError, match=r"line 9 .*That makes 2 unusable of 10 records of \S+, more than the 1 that --max-bad 10% allows"):
        evaluate_model(mini_checkpoint, str(path), output=tmp_path / "out", max_bad="10%", **options)
    assert not (tmp_path / "out").exists()
    report = evaluate_model(mini_checkpoint, str(path), output=tmp_path / "out", max_bad="20%", **options)
    assert report.row("questions.jsonl").model.samples == 8 and report.row("questions.jsonl").unusable == 2
    assert ["line 3" in report.skipped[0], "line 9" in report.skipped[1], len(report.skipped)] == [True, True, 2]
    with pytest.raises(DataError, match=r"That makes 2 unusable of 10 records of \S+"):
        evaluate_model(mini_checkpoint, str(path), output=tmp_path / "out", max_bad="10%", **options)


def test_one_picture_that_the_processor_refuses(
    write_task: Write, tmp_path: Path, options: dict[str, Any], mini_checkpoint: Checkpoint
) -> None:
    """It is found though it was asked in a batch, and the others of the batch are answered."""
    from PIL import Image

    path = write_task([{**GOOD, "image": f"{number}.png"} for number in range(5)])
    Image.new("RGB", (4000, 3)).save(path.parent / "4.png")
    report = evaluate_model(mini_checkpoint, str(path), output=tmp_path / "out", max_bad="20%", **options)
    assert report.row("questions.jsonl").model.samples == 4 and "line 5" in report.skipped[0] and "refuses" in report.skipped[0]


def test_a_checkpoint_that_never_ends_an_answer(tmp_path: Path, options: dict[str, Any]) -> None:
    endless = tmp_path / "endless"
    shutil.copytree(model_path(), endless)
    config = json.loads((endless / "generation_config.json").read_text())
    (endless / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": 671}))
    checkpoint = Checkpoint.open(endless, "endless")
    report = evaluate_model(checkpoint, "mini-general", samples=4, max_new_tokens=6, output=tmp_path / "out", **options)
    assert report.row("mini-general").model.truncated == 4
    assert all(one["truncated"] and one["tokens"] == 6 for one in lines(tmp_path / "out" / "answers.jsonl"))


@pytest.mark.parametrize(("opening", "opened"), [("<think>\n", 8), ("<think>\n\n</think>\n\n", 0), ("Use <think> and </think>: ", 0)])
def test_a_thought_that_the_template_opens(tmp_path: Path, options: dict[str, Any], opening: str, opened: int) -> None:
    """mini does not know how to end a thought, so none of its answers is one: all are truncated, and no answer is correct."""
    thinker = tmp_path / "thinker"
    shutil.copytree(model_path(), thinker)
    template = thinker / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>assistant\n", f"<|im_start|>assistant\n{opening}"))
    report = evaluate_model(Checkpoint.open(thinker, "thinker"), "mini-general", samples=8, output=tmp_path / "out", **options)
    answers = lines(tmp_path / "out" / "answers.jsonl")
    thoughts = [one for one in answers if one["text"].startswith("<think>")]
    assert len(thoughts) == opened and all(one["truncated"] for one in thoughts)
    assert report.row("mini-general").model.truncated == sum(one["truncated"] for one in answers) >= opened
    assert not any(one["score"] for one in answers if one["truncated"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(model_path(), remote)
    value = json.loads((remote / name).read_text())
    (remote / name).write_text(json.dumps(value | {"auto_map": {"AutoModel": "evil.Model"}}))
    (remote / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ModelError, match="names code of its own"):
        evaluate_model(Checkpoint.open(remote, "remote"), samples=9, **options)


def test_answers_change_with_what_decides_them(tmp_path: Path, options: dict[str, Any], asked: list[int]) -> None:
    """Another chat template or end token is another model, though its weights are the same."""
    other = tmp_path / "other"
    shutil.copytree(model_path(), other)
    evaluate_model(Checkpoint.open(other, "other"), "mini-general", samples=4, output=tmp_path / "one", **options)
    asked.clear()
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>assistant", "<|im_start|>assistant "))
    evaluate_model(Checkpoint.open(other, "other"), "mini-general", samples=4, output=tmp_path / "two", **options)
    assert sum(asked) == 4
    evaluate_model(Checkpoint.open(other, "other"), "mini-general", samples=4, output=tmp_path / "three", dtype="bfloat16", **options)
    assert sum(asked) == 8


def test_two_runs_at_once(tmp_path: Path, options: dict[str, Any], mini_checkpoint: Checkpoint, asked: list[int]) -> None:
    evaluate_model(mini_checkpoint, "mini-general", samples=4, output=tmp_path / "one", **options)
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    asked.clear()
    with hold(kept.with_suffix(".lock"), "x"), pytest.raises(CheckpointError, match=rf"process {os.getpid()} .*is writing it"):
        evaluate_model(mini_checkpoint, "mini-general", samples=4, output=tmp_path / "two", **options)
    assert not asked and not (tmp_path / "two").exists()


def test_what_the_disk_refuses(tmp_path: Path, mini_checkpoint: Checkpoint) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    with pytest.raises(EvaluationError, match=r"answers cannot be kept there: .*"):
        evaluate_model(mini_checkpoint, "mini-general", samples=4, output=tmp_path / "out", answers_folder=tmp_path / "kept")


def test_usage(tmp_path: Path, options: dict[str, Any], mini_checkpoint: Checkpoint) -> None:
    stranger = Checkpoint.open(make_checkpoint(tmp_path / "tiny"), "tiny")
    for wrong in ({"batch_size": 0}, {"max_bad": "2"}, {"samples": 0}, {"scorer": "x"}, {"tasks": ["mini-geneal"]}):
        with pytest.raises(UsageError):
            evaluate_model(mini_checkpoint, **{**options, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--tasks is missing"):
        evaluate_model(stranger, **options)
    assert not list(Path().iterdir())
