"""Options that several commands share, each said once."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from hf_layerprune.errors import UsageError
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.publishing.options import CardOptions, PushOptions
from hf_layerprune.strategies.options import PlanOptions

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _gathered(name: str, *options: Callable[[Any], Any], make: Callable[..., Any] = dict) -> Callable[[Command], Command]:
    """Options that a command receives together, as one argument `name`: a dict, or what `make` makes of them."""

    def nothing() -> None: ...

    for option in options:
        option(nothing)
    keys = [parameter.name for parameter in nothing.__click_params__]  # type: ignore[attr-defined]

    def decorate(command: Any) -> Any:
        @wraps(command)
        def gather(*args: Any, **kwargs: Any) -> Any:
            together = {key: kwargs.pop(key) for key in keys}
            try:
                value = make(**together)
            except UsageError as error:
                raise click.UsageError(str(error)) from error
            return command(*args, **kwargs, **{name: value})

        for option in reversed(options):
            gather = option(gather)
        return gather

    return decorate


def _of_fields(options: Any) -> list[Callable[[Any], Any]]:
    """A click option for each field of a dataclass of options, from its name, type, default and metadata (help, unit, default in words)."""
    return [_of_field(item, get_type_hints(options)[item.name]) for item in fields(options)]


def _of_field(item: Field[Any], kind: Any) -> Callable[[Any], Any]:
    flag, unit, default = "--" + item.name.replace("_", "-"), item.metadata["unit"], item.metadata["default"]
    help = item.metadata["help"] + (f"  [default: {default}]" if default else "")
    if kind is bool:
        return click.option(flag, is_flag=True, help=help)
    kind = (get_args(kind) or (kind,))[0]  # of `int | None`
    accepted = click.Choice(unit.split("|")) if "|" in unit else PATH if kind is Path else kind
    metavar = None if "|" in unit else unit
    return click.option(flag, type=accepted, default=item.default, show_default=not default, metavar=metavar, help=help)


def _assignments(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE.")
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.BadParameter(f"{twice[0]!r} is given twice.")
    return {name: value for name, _, value in pairs}


lookup = _gathered(
    "lookup",
    click.option("--revision", metavar="REF", help="Branch, tag or commit of a Hub id."),
    click.option("--local-files-only", is_flag=True, help="Take a Hub id from the cache alone."),
    click.option("--yes", is_flag=True, help="Take a suggested id without asking."),
)

planning = _gathered(
    "planning",
    click.option("--method", metavar="NAME", help="How to rank layers; `hf-layerprune strategies` lists them.  [default: mixed]"),
    click.option("--set", "parameters", multiple=True, metavar="NAME=VALUE", callback=_assignments, help="A parameter of the method."),
    click.option(
        "--budget", metavar="SHARE", help="Share of the layers to remove, 0.25 or 25%.  [default: 0.25, the paper's middle budget]"
    ),
    click.option(
        "--budget-of",
        type=click.Choice(["middle", "all"]),
        default="middle",
        show_default="middle, as in the domain-aware paper",
        help="Share of the layers but first and last, or of all (INTERLACE).",
    ),
    click.option("--num-layers", type=int, metavar="K", help="Remove this many layers instead."),
    click.option("--layers", metavar="LIST", help="Remove these layers instead, such as 11,17-20."),
    click.option(
        "--protect",
        default="default",
        metavar="WHICH",
        show_default="first, last and DeepStack layers",
        help="`first,last` is the domain-aware paper's protocol, `none` INTERLACE's; numbers can be added.",
    ),
    click.option("--strict", is_flag=True, help="Refuse where the method must widen its spacing rule to reach the budget."),
    click.option("--force", is_flag=True, help="With --layers: remove protected layers too."),
    make=PlanOptions,
)

probing = _gathered("probing", *_of_fields(ProbeOptions), make=ProbeOptions)

writing = _gathered(
    "writing",
    click.option("--max-shard-size", metavar="SIZE", help="Such as 5GB.  [default: the source's shards]"),
    click.option(
        "--no-verify", "verify", is_flag=True, flag_value=False, default=True, help="Skip comparing what was written with the source."
    ),
    click.option("--stream", is_flag=True, help="Fetch a Hub id's shards one at a time and keep none."),
)

evaluating = _gathered(
    "evaluating",
    click.option(
        "--tasks",
        multiple=True,
        metavar="SPEC",
        help="mini-math, mini-general, a .jsonl or .parquet file, or a dataset's id, with question, image and answer; repeatable.  "
        "[default: both of mini, for a model that comes from it]",
    ),
    click.option("--samples", type=int, metavar="N", help="Samples a task.  [default: 500 of a mini domain, all of any other task]"),
    click.option("--allow-fewer", is_flag=True, help="Go on with fewer samples than --samples."),
    click.option(
        "--scorer",
        type=click.Choice(["exact", "relaxed", "choice"]),
        help="relaxed: numbers within 5 %, as ChartQA has it.  [default: choice for a record with choices, else exact]",
    ),
    click.option(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="Where an answer is cut.  [default: 48 for mini, 32 for multiple choice, else 256; a model that thinks first needs more]",
    ),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the samples that are drawn."),
    click.option("--batch-size", type=int, metavar="N", help="Questions at once.  [default: up to 64, fewer for wide models]"),
    click.option("--max-bad", default="1%", show_default=True, metavar="SHARE", help="Share of a task's records that may be unusable."),
    click.option(
        "--device", type=click.Choice(["auto", "cuda", "mps", "cpu"]), default="auto", show_default=True, help="Where to run the model."
    ),
    click.option("--dtype", default="auto", show_default="float32 on a CPU, else the checkpoint's", metavar="TYPE", help="Precision."),
)


healing = _gathered(
    "healing",
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", callback=_assignments, help="A setting of the recipe."),
    click.option("--tune-last", metavar="N", help="For a dense SOURCE: train the last N layers in full, a count or a share such as 25%."),
    click.option("--keep-adapter", is_flag=True, help="Write the LoRA adapter alone instead of merging it."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the data, the adapters and dropout."),
    click.option("--save-steps", type=int, default=50, show_default=True, help="Steps between two saves; a killed run goes on from one."),
    click.option(
        "--report-to",
        type=click.Choice(["none", "trackio", "wandb", "tensorboard"]),
        default="none",
        show_default=True,
        help="Where to send the curve as well.",
    ),
    click.option("--device", type=click.Choice(["auto", "cuda", "mps", "cpu"]), default="auto", show_default=True, help="Where to train."),
)

healing_data = _gathered(
    "data",
    click.option(
        "--data",
        multiple=True,
        metavar="SPEC",
        help="NAME_OR_PATH,subset=..,split=..,count=..,weight=..; repeatable.  [default: mini,count=4096 for models pruned from mini]",
    ),
    click.option("--max-bad", default="1%", show_default=True, metavar="SHARE", help="Share of a source's records that may be unusable."),
    click.option("--interlace-filter", is_flag=True, help="INTERLACE's choice: 1 % of each subset, at most 3 images and 5 turns."),
    click.option("--render-math", is_flag=True, help="Take problems and solutions (NuminaMath-CoT) as images and answers; ours."),
    click.option("--exclude", multiple=True, metavar="SPEC", help="With --render-math: leave out the problems in this source."),
)

card = _gathered("asked", *_of_fields(CardOptions), make=CardOptions)
pushing = _gathered("asked", *_of_fields(PushOptions), make=PushOptions)

overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that hf-layerprune made.")


def output(what: str, metavar: str, default: str | None = None) -> Callable[[Command], Command]:
    """`-o`, required unless a default is named."""
    help = f"Where to write {what}." + (f"  [default: {default}]" if default else "")
    return click.option("-o", "--output", type=PATH, metavar=metavar, required=default is None, help=help)


def examples(*lines: str) -> str:
    """The end of a command's help: real examples, kept on lines of their own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def quoted(argument: object) -> str:
    """An argument as one types it into a shell, in lines that tell what to run next."""
    text = shlex.quote(str(argument))
    return f"./{text}" if text.startswith("-") else text
