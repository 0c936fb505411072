"""LayerPruner takes the options of a stage by name, and its errors call them what Python calls them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hf_layerprune import EvalReport, LayerPruneError, LayerPruner, PruningPlan, UsageError
from hf_layerprune.arguments import (
    EvaluateArguments,
    HealArguments,
    PlanArguments,
    ProbeArguments,
    PushArguments,
    Spoken,
    described,
    in_python,
    takes,
)
from hf_layerprune.artifacts.option import option
from hf_layerprune.cli.console import Invocation
from hf_layerprune.cli.main import cli
from tests.tiny_checkpoint import make_checkpoint

CARDS = Path(__file__).parents[1] / "cards"
FOLDER = str(CARDS / "mini-mixed-13L")
STAGES = {
    "probe": ProbeArguments,
    "prune": PlanArguments,
    "heal": HealArguments,
    "evaluate": EvaluateArguments,
    "push_to_hub": PushArguments,
}
GIVEN: dict[str, tuple[str, ...]] = {"heal": ("out",), "push_to_hub": ("me/model", FOLDER)}
COMMANDS = {
    "probe": ("probe", "mini", "-o", "out"),
    "prune": ("plan", "mini", "-o", "out"),
    "heal": ("heal", "mini", "-o", "out"),
    "evaluate": ("evaluate", "mini"),
    "push_to_hub": ("push", FOLDER, "me/model"),
}
EVERY = [(stage, field.name) for stage, kind in STAGES.items() for field in fields(kind)]
NAMED = [(stage, name) for stage, name in EVERY if name not in ("device_map", "output", "repo_id", "folder")]
WRONG = {  # values of the right type
    "probe": {"samples": 0, "max_bad": "200%", "device": "gpu"},
    "prune": {"budget": 1.5, "num_layers": 99, "layers": "3,99", "protect": "frist", "force": True},
    "heal": {"seed": -1, "save_steps": 0, "max_bad": "x", "tune_last": "25%", "exclude": ("a",)},
    "evaluate": {"samples": -1, "max_new_tokens": 0, "batch_size": 0, "max_bad": "100%", "tasks": "mini-math,count=3"},
    "push_to_hub": {"revision": "a b", "commit_message": " ", "license": " "},
}
CASES = [(stage, name, value) for stage, values in WRONG.items() for name, value in values.items()]


@pytest.fixture
def pruner() -> LayerPruner:
    return LayerPruner.from_pretrained("mini", statistics_folder=None)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(call: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(LayerPruneError) as caught:
        call(*args, **options)
    return str(caught.value)


def of_command(*arguments: object) -> str:
    """What the command line says of wrong usage, on one line."""
    done = CliRunner().invoke(cli, [*map(str, arguments)], obj=Invocation())
    assert done.exit_code != 0
    return " ".join((done.output if done.exit_code == 2 else str(done.exception)).split())


@pytest.mark.parametrize(("stage", "name"), [case for case in EVERY if case[1] != "device_map"])
def test_a_value_of_another_type_names_the_argument(pruner: LayerPruner, stage: str, name: str) -> None:
    given = GIVEN.get(stage, ())
    if name in ("output", "repo_id", "folder") and given:
        given = tuple(({"output": 0, "repo_id": 0, "folder": 1}[name] != place and text) or object() for place, text in enumerate(given))
        assert refusal(getattr(pruner, stage), *given).startswith(f"{name}=<object object at")
    else:
        said = refusal(getattr(pruner, stage), *given, **{name: object()})
        assert said.startswith(f"{name}=<object object at" if name != "token" else "token: ") and ": expected " in said


@pytest.mark.parametrize(("stage", "name", "value"), CASES)
def test_a_wrong_value_from_both_sides(pruner: LayerPruner, stage: str, name: str, value: object) -> None:
    flag = "--" + name.replace("_", "-")
    said = refusal(getattr(pruner, stage), *GIVEN.get(stage, ()), **{name: value})
    shown = value[0] if isinstance(value, tuple) else value
    other = of_command(*COMMANDS[stage], flag, *([] if value is True else [shown]))
    assert "--" not in said, said
    assert re.search(rf"\b{name}\b", said), said
    assert flag in other, other


@pytest.mark.parametrize("stage", STAGES)
def test_options_of_the_command_line_that_click_reads(stage: str) -> None:
    """Numbers and choices are refused before anything runs, by the option's own name."""
    command = cli.commands.get(COMMANDS[stage][0]) or cli.get_command(None, COMMANDS[stage][0])  # type: ignore[arg-type]
    assert command is not None
    kinds = [each for each in command.params if each.type.name in ("integer", "choice") and each.param_type_name == "option"]
    assert kinds or stage == "push_to_hub"
    for each in kinds:
        assert f"'{each.opts[0]}'" in of_command(*COMMANDS[stage], each.opts[0], "no such value")


@pytest.mark.parametrize(("stage", "name"), NAMED)
def test_a_misspelt_argument_is_suggested(pruner: LayerPruner, stage: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{stage}\(\) has no argument '{name}s?x'\. Did you mean '{name}'\?$"):
        getattr(pruner, stage)(*GIVEN.get(stage, ()), **{f"{name}x": None})


def test_too_few_and_too_many(pruner: LayerPruner) -> None:
    for call, said in (
        (pruner.heal, r"heal\(\): missing a required argument: 'output'"),
        (lambda: pruner.probe("images"), r"probe\(\): too many positional arguments"),
        (lambda: pruner.evaluate("mini-math", tasks="mini-general"), r"evaluate\(\): multiple values for argument 'tasks'"),
    ):
        with pytest.raises(TypeError, match=said):
            call()  # type: ignore[operator]


@pytest.mark.parametrize("stage", STAGES)
def test_signature_and_help_are_those_of_the_options(stage: str) -> None:
    method = getattr(LayerPruner, stage)
    parameters = inspect.signature(method).parameters
    assert [*parameters] == ["self", *(field.name for field in fields(STAGES[stage]))]
    for field in fields(STAGES[stage]):
        assert parameters[field.name].annotation is not inspect.Parameter.empty and "factory" not in str(parameters[field.name].default)
        if help := field.metadata.get("help"):
            assert f"\n{field.name}: {in_python(help)}" in method.__doc__
    assert "--" not in method.__doc__
    positional = {"prune": ["method", "budget"], "heal": ["output", "recipe"], "evaluate": ["tasks"], "push_to_hub": ["repo_id", "folder"]}
    several = [name for name, each in parameters.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert several[1:] == positional.get(stage, [])


def test_a_new_option_needs_no_more_work() -> None:
    @dataclass(frozen=True, kw_only=True)
    class More(ProbeArguments):
        patience: int = option(3, "How long to wait, at most --samples.", "N")

    class Patient:
        @takes(More)
        def wait(self, asked: More) -> int:
            """Wait."""
            return asked.patience

    assert Patient().wait(patience=4) == 4 and Patient().wait() == 3
    assert inspect.signature(Patient.wait).parameters["patience"].default == 3
    assert described(More).endswith("\npatience: How long to wait, at most samples.")
    with pytest.raises(UsageError, match=r"^patience='4': expected a whole number.$"):
        Patient().wait(patience="4")  # type: ignore[arg-type]


def test_values_of_numpy_torch_and_paths_are_accepted(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Seeing:
        @takes(EvaluateArguments)
        def evaluate(self, asked: EvaluateArguments) -> None:
            seen.append(asked)

        @takes(PlanArguments)
        def plan(self, asked: PlanArguments) -> None:
            seen.append(asked)

        @takes(PushArguments)
        def push(self, asked: PushArguments) -> None:
            seen.append(asked)

    dtype: Any = torch.bfloat16
    Seeing().evaluate(Path("a.jsonl"), samples=np.int64(3), dtype=dtype, device=torch.device("cpu"), max_bad=np.float32(0.5))  # type: ignore[arg-type]
    asked = seen.pop()
    assert (asked.tasks, asked.samples, asked.dtype, asked.device, asked.max_bad) == ("a.jsonl", 3, "bfloat16", "cpu", 0.5)
    assert json.dumps([asked.samples, asked.max_bad]) == "[3, 0.5]"
    Seeing().plan(layers=np.array([3, 4]), protect=range(2), parameters={})
    assert (seen[-1].layers, seen[-1].protect) == ((3, 4), (0, 1))
    Seeing().push("me/x", tmp_path, control="folder")  # type: ignore[arg-type]
    assert seen[-1].control == Path("folder")
    with pytest.raises(UsageError, match=r"^layers='a': expected a whole number.$"):
        Seeing().plan(layers=["a"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--samples 3: at least 1", "samples=3: at least 1"),
        ("fewer than --samples 5. To continue, add --allow-fewer.", "fewer than samples=5. To continue, add allow_fewer=True."),
        ("--max-bad '2 %': a share", "max_bad='2 %': a share"),
        ("more than --max-bad 1% allows", "more than max_bad 1% allows"),
        ("Choose another place with -o, or add --overwrite.", "Choose another place with output, or add overwrite=True."),
        ("or --set batch_size=.", "or settings={'batch_size': ...}."),
        ("use --set precision=fp32.", "use settings={'precision': 'fp32'}."),
        ("X exists: pass that, or add --yes.", "X exists: pass that."),
        ("add --processor Qwen/Qwen3-VL-4B-Instruct.", "add processor='Qwen/Qwen3-VL-4B-Instruct'."),
        ("add --tune-last, such as --tune-last 25%.", "add tune_last, such as tune_last='25%'."),
        ("such as --data a.jsonl,count=9; it can", "such as data='a.jsonl,count=9'; it can"),
        ("add --overwrite to replace it", "add overwrite=True to replace it"),
        ("leave out --revision, or name", "leave out revision, or name"),
        ("fetch it: hf download ID --local-dir FOLDER", "fetch it: hf download ID --local-dir FOLDER"),
        ("models--Qwen--samples/x: no file '--samples'", "models--Qwen--samples/x: no file '--samples'"),
    ],
)
def test_names_of_python(text: str, expected: str) -> None:
    assert in_python(text) == in_python(expected) == expected


def test_every_way_in_names_arguments(pruner: LayerPruner, tmp_path: Path) -> None:
    pruner.prune(layers=[7])
    assert refusal(pruner.save_pretrained, tmp_path / "out", max_shard_size="5 apples").startswith("max_shard_size='5 apples': ")
    pruner.save_pretrained(tmp_path / "out")
    assert refusal(pruner.save_pretrained, tmp_path / "out").endswith("add overwrite=True to replace it.")
    assert "Leave out revision, or" in refusal(LayerPruner.from_pretrained, "mini", revision="main")
    tiny = LayerPruner.from_pretrained(make_checkpoint(tmp_path / "tiny"), statistics_folder=None)
    assert "such as tasks='questions.jsonl', or" in refusal(tiny.evaluate)


def test_every_way_in_suggests_arguments(pruner: LayerPruner) -> None:
    with pytest.raises(TypeError, match=r"^from_pretrained\(\) has no argument 'revison'\. Did you mean 'revision'\?$"):
        LayerPruner.from_pretrained("mini", revison="main")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^save_pretrained\(\) has no argument 'overwite'\. Did you mean 'overwrite'\?$"):
        pruner.save_pretrained("out", overwite=True)  # type: ignore[call-arg]
    assert inspect.signature(LayerPruner.from_pretrained).parameters["subfolder"].default is None


def test_what_is_built_on_access_names_arguments(tmp_path: Path) -> None:
    """A checkpoint without an image processor names the remedy of Python; the command line, which probes by the same code, its own."""
    folder = make_checkpoint(tmp_path / "tiny")
    pruner = LayerPruner.from_pretrained(folder, statistics_folder=None)
    said = refusal(lambda: pruner.processor)
    assert " add processor=" in said and "--" not in said
    assert " add --processor " in of_command("probe", folder, "-o", "out", "--samples", 1, "--no-cache")


def test_a_token_is_shown_nowhere(pruner: LayerPruner) -> None:
    assert "secret" not in repr(PushArguments(repo_id="me/x", folder="out", token="secret"))
    assert "secret" not in refusal(pruner.push_to_hub, "me/x", "out", token=b"secret")


def test_lines_for_people_and_reports_name_arguments_too() -> None:
    lines: list[str] = []
    Spoken(say=lines.append).told("note: 3 records, fewer than --samples 5")
    assert lines == ["note: 3 records, fewer than samples=5"]
    report = EvalReport.load(CARDS / "mini-mixed-13L/layerprune/eval.json")
    assert "--" not in str(report) + report._repr_html_()


def test_the_pruners_own_dtype_and_cache(pruner: LayerPruner, tmp_path: Path) -> None:
    """What a call leaves open is the pruner's, and no_cache is heeded."""
    kept = LayerPruner.from_pretrained("mini", dtype="bfloat16", statistics_folder=tmp_path / "kept")
    assert kept.probe(samples=1, no_cache=True).record.settings["dtype"] == "bfloat16"
    assert not (tmp_path / "kept").exists()
    assert isinstance(pruner.prune(layers=[7]), PruningPlan)
