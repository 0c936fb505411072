"""Click options, made from the dataclasses of options: each is said once, at its field."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from hf_layerprune.artifacts.option import option
from hf_layerprune.errors import UsageError
from hf_layerprune.registry import nearest_name

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Lookup:
    """How a source is found."""

    revision: str | None = option(None, "Branch, tag or commit of a Hub id.", "REF")
    local_files_only: bool = option(False, "Take a Hub id from the cache alone.")
    yes: bool = option(False, "Take a suggested id without asking.")


def from_fields(options: Any, name: str) -> Callable[[Command], Command]:
    """Give a command a click option for each field of a dataclass that has a help, and their values together as one argument `name`."""
    kinds = get_type_hints(options)
    asked = [item for item in fields(options) if item.metadata["help"]]

    def decorate(command: Any) -> Any:
        @wraps(command)
        def gather(*args: Any, **kwargs: Any) -> Any:
            values = {item.name: kwargs.pop(item.name) for item in asked}
            try:
                value = options(**values)
            except UsageError as error:
                raise click.UsageError(str(error)) from error
            return command(*args, **kwargs, **{name: value})

        for item in reversed(asked):
            gather = _from_field(item, kinds[item.name])(gather)
        return gather

    return decorate


def _from_field(item: Field[Any], kind: Any) -> Callable[[Any], Any]:
    """A click option from a field's name, type, default and metadata (help, unit, default in words)."""
    flag, unit, shown = "--" + item.name.replace("_", "-"), item.metadata["unit"], item.metadata["default"]
    help = item.metadata["help"] + (f"  [default: {shown}]" if shown else "")
    if kind is bool and item.default:
        return click.option(f"--no-{flag[2:]}", item.name, is_flag=True, flag_value=False, default=True, help=help)
    if kind is bool:
        return click.option(flag, is_flag=True, help=help)
    kinds = [one for one in get_args(kind) or (kind,) if one is not NoneType]
    if any(get_origin(one) is Mapping for one in (kind, *kinds)):
        return click.option("--set", item.name, multiple=True, metavar=unit, callback=_assignments, help=help)
    if get_origin(kind) is Literal or "|" in unit:
        accepted: Any = click.Choice(get_args(kind) if get_origin(kind) is Literal else unit.split("|"))
        return click.option(flag, type=accepted, default=item.default, show_default=not shown, help=help)
    accepted = PATH if Path in kinds else str if str in kinds or item.default == () else kinds[0]
    several = item.default == ()
    return click.option(
        flag, type=accepted, multiple=several, default=item.default, show_default=not shown and not several, metavar=unit or None, help=help
    )


def _assignments(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE.")
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.BadParameter(f"{twice[0]!r} is given twice.")
    return {name: value for name, _, value in pairs}


lookup = from_fields(Lookup, "lookup")
processor = click.option(
    "--processor", metavar="SOURCE", help="Take what the model lacks of tokenizer, image processor and chat template from this one."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that hf-layerprune made.")


def output(what: str, metavar: str, default: str | None = None) -> Callable[[Command], Command]:
    """`-o`, required unless a default is named."""
    help = f"Where to write {what}." + (f"  [default: {default}]" if default else "")
    return click.option("-o", "--output", type=PATH, metavar=metavar, required=default is None, help=help)


def examples(*lines: str) -> str:
    """The end of a command's help: real examples, kept on lines of their own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def with_setting(error: click.ClickException) -> click.ClickException:
    """An error about an option that does not exist; where the command can `--set` something of that name, it suggests that."""
    if not isinstance(error, click.NoSuchOption) or (ctx := error.ctx) is None:
        return error
    if not any("--set" in parameter.opts for parameter in ctx.command.params):
        return error
    from hf_layerprune.healing.recipes import SETTINGS
    from hf_layerprune.strategies.plugins import STRATEGIES, field_types

    parameters = [name for strategy in STRATEGIES.values() for name in field_types(strategy)]
    known = [name for name, setting in SETTINGS.items() if setting.kind] if ctx.info_name == "heal" else parameters
    name = error.option_name.lstrip("-").replace("-", "_")
    nearest = nearest_name(name, known)
    if nearest is None:
        return error
    return click.UsageError(f"No such option {error.option_name!r}. Did you mean '--set {nearest}='?", ctx)


def quoted(argument: object) -> str:
    """An argument as one types it into a shell, in lines that tell what to run next."""
    text = shlex.quote(str(argument))
    return f"./{text}" if text.startswith("-") else text
