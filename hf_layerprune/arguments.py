"""What the methods of LayerPruner take, and errors that call it what Python calls it.

A method takes one value: the options of its stage, as the command line takes them too, and what belongs to the call. `takes` lets it be
called with the names of that value's fields: signature, help(), completion and type checkers all read the dataclass.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hf_layerprune.artifacts.option import option
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.checkpoint.source import Place
from hf_layerprune.errors import LayerPruneError, UsageError, shown
from hf_layerprune.evaluation.options import EvaluateOptions
from hf_layerprune.healing.options import HealOptions
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.publishing.options import PushOptions
from hf_layerprune.registry import did_you_mean
from hf_layerprune.strategies.options import PlanOptions

P = ParamSpec("P")
Asked = TypeVar("Asked")
Pruner = TypeVar("Pruner")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Who is told of a call."""

    say: Callable[[str], None] | None = option(None, "Given lines for people.", shown="printed to stderr")

    def told(self, line: str) -> None:
        """Pass a line on."""
        if self.say is None:
            print(in_python(line), file=sys.stderr)
        else:
            self.say(in_python(line))


@dataclass(frozen=True, kw_only=True)
class ProbeArguments(Spoken, ProbeOptions):
    """Of `LayerPruner.probe`."""

    progress: Callable[[int, int], None] | None = option(None, "Called with the images done and in all.")


@dataclass(frozen=True, kw_only=True)
class PlanArguments(PlanOptions):
    """Of `LayerPruner.prune`."""

    statistics: LayerStatistics | None = option(None, "What to plan from.", shown="the last ones; without any it probes, if it must")


@dataclass(frozen=True)
class Healed:
    """Where a healed model goes."""

    output: str | Path


@dataclass(frozen=True, kw_only=True)
class HealArguments(Spoken, HealOptions, Healed):
    """Of `LayerPruner.heal`."""

    source: bool = option(False, "Fine-tune the source though it was pruned, as the dense control.")
    progress: Callable[[Mapping[str, float], int, int], None] | None = option(
        None, "Called with each step's numbers, the steps done and in all."
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(Spoken, EvaluateOptions):
    """Of `LayerPruner.evaluate`."""

    source: bool = option(False, "Evaluate the source though it was pruned.")
    against: str | Path | None = option(None, "Compare with another model on the same samples: a folder, `mini` or a Hub id.")
    output: str | Path | None = option(None, "The folder to write.", shown="layerprune/ in a folder that we made, else ./<name>-eval")
    progress: Callable[[int, int], None] | None = option(None, "Called with the samples done and in all.")


@dataclass(frozen=True)
class Published:
    """What is published where."""

    repo_id: str
    folder: str | Path


@dataclass(frozen=True, kw_only=True)
class PushArguments(Spoken, PushOptions, Published):
    """Of `LayerPruner.push_to_hub`."""

    token: str | bool | None = field(default=None, repr=False, metadata={"help": "Of the Hub.", "default": "that of who is logged in"})


STAGES: tuple[Any, ...] = (ProbeArguments, PlanArguments, WriteOptions, HealArguments, EvaluateArguments, PushArguments)
DEFAULTS = {"processor": None} | {item.name: item.default for stage in (Place, *STAGES) for item in fields(stage)}
KINDS = {NoneType: "None", bool: "True or False", int: "a whole number", float: "a number", str: "text", Path: "a path"}
OPTION = re.compile(r"""(?<![^\s(])--([a-z][a-z-]*)( (?=['"]|-?\d+(?:\.\d+)?(?![\w%])))?""")
PROPOSED = re.compile(r"\b(add|such as) --([a-z][a-z-]*) ([^\s;)]+?)(?=[.,;)]*(?:\s|$))")
SETTING = re.compile(r"(?<![^\s(])--set (\w+)=(\w*)")


def takes(kind: Callable[P, Asked]) -> Callable[[Callable[[Pruner, Asked], Result]], Callable[Concatenate[Pruner, P], Result]]:
    """Let a method that takes one dataclass be called with the names of its fields.

    TypeError for a name that is no field, with the nearest one; UsageError for a value of another type. Errors of the method name its
    arguments as Python does. Paths, numpy's numbers and torch's dtypes and devices are accepted for the text or number that they say.
    """
    asked = cast(Any, kind)
    hints, parameters = get_type_hints(asked), dict(inspect.signature(asked).parameters)
    for item in fields(asked):
        default = parameters[item.name].default if item.default_factory is MISSING else item.default_factory()
        parameters[item.name] = parameters[item.name].replace(annotation=hints[item.name], default=default)
    signature = inspect.Signature([*parameters.values()])

    def decorate(method: Callable[[Pruner, Asked], Result]) -> Callable[Concatenate[Pruner, P], Result]:
        @wraps(method)
        def call(self: Pruner, *args: P.args, **given: P.kwargs) -> Result:
            values = _bound(method.__name__, signature, args, given)
            with _named_as_in_python():
                return method(self, asked(**{name: accepted(value, hints[name], name) for name, value in values.items()}))

        itself, result = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), method.__annotations__["return"]
        call.__signature__ = signature.replace(parameters=[itself, *parameters.values()], return_annotation=result)  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.cleandoc(method.__doc__ or '')}\n\n{described(asked)}"
        return cast("Callable[Concatenate[Pruner, P], Result]", call)

    return decorate


def in_terms_of_python(method: Callable[P, Result]) -> Callable[P, Result]:
    """Let a method's errors name its arguments as Python does, and suggest one for a name that it does not know."""
    signature = inspect.signature(method)

    @wraps(method)
    def call(*args: P.args, **given: P.kwargs) -> Result:
        _bound(method.__name__, signature, args, given)
        with _named_as_in_python():
            return method(*args, **given)

    return call


def _bound(called: str, signature: inspect.Signature, args: tuple[Any, ...], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by name; TypeError where they do not fit."""
    if unknown := [name for name in given if name not in signature.parameters]:
        raise TypeError(f"{called}() has no argument {unknown[0]!r}. {did_you_mean(unknown[0], signature.parameters)}".rstrip())
    try:
        return signature.bind(*args, **given).arguments
    except TypeError as error:
        raise TypeError(f"{called}(): {error}") from None


def ignore(*numbers: object) -> None:
    """Stand in for a `progress` that was not given."""


def described(kind: Any) -> str:
    """A line for each field that has a help, for the docstring of a method that takes them."""
    lines = []
    for item in fields(kind):
        if help := item.metadata.get("help"):
            default = f"  [default: {item.metadata['default']}]" if item.metadata["default"] else ""
            lines.append(f"{item.name}: {in_python(help)}{default}")
    return "\n".join(lines)


@contextmanager
def _named_as_in_python() -> Iterator[None]:
    """Errors that end a call name its arguments instead of the options of the command line."""
    try:
        yield
    except LayerPruneError as error:
        error.args = tuple(in_python(part) if isinstance(part, str) else part for part in error.args)
        raise


def in_python(text: str) -> str:
    """A text that names options of the command line, as `--max-bad 7`, naming the arguments of Python instead: `max_bad=7`.

    Options of other programs, and words within quotes or paths, stay as they are.
    """
    text = text.replace(", or add --yes", "")  # an answer to a question that only the command line asks
    text = re.sub(r"(?<![^\s(])-o\b", "output", SETTING.sub(_setting, PROPOSED.sub(_proposed, text)))
    return OPTION.sub(_argument, text)


def _proposed(match: re.Match[str]) -> str:
    name, value = match[2].replace("-", "_"), match[3]
    takes_text = DEFAULTS.get(name, False) is not False and not value.isdecimal()
    return f"{match[1]} {name}={value!r}" if takes_text else match[0]


def _setting(match: re.Match[str]) -> str:
    return f"settings={{{match[1]!r}: {repr(match[2]) if match[2] else '...'}}}"


def _argument(match: re.Match[str]) -> str:
    name, equals = match[1].replace("-", "_"), "=" if match[2] else ""
    if name not in DEFAULTS:
        return match[0]
    return f"{name}=True" if DEFAULTS[name] is False else name + equals


def accepted(value: Any, kind: Any, name: str) -> Any:
    """A value as an argument of that kind takes it; UsageError naming the argument for one that it does not take."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for one in kinds:
        if _fits(value, one):
            return tuple(accepted(item, get_args(one)[0], name) for item in value) if get_origin(one) is Sequence else value
    if (plain := _plain(value, kinds)) is not value:
        return accepted(plain, kind, name)
    expected = [KINDS.get(one) or _words(one) for one in kinds if one is not NoneType]
    got = name if name == "token" else f"{name}={shown(value)}"  # a secret is in no error
    raise UsageError(f"{got}: expected {' or '.join(expected)}.")


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if kind is Any or origin is Literal:
        return kind is Any or value in get_args(kind)
    if isinstance(value, bool) or origin is bool:
        return isinstance(value, bool) and origin is bool
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return isinstance(value, (int, float) if origin is float else origin)


def _plain(value: Any, kinds: tuple[Any, ...]) -> Any:
    """A path, or what numpy and torch say, as Python's own value; anything else as it is."""
    if isinstance(value, str):
        return Path(value) if Path in kinds else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "torch" and not hasattr(value, "tolist"):  # a dtype or a device
        return str(value).removeprefix("torch.")
    return value.tolist() if hasattr(value, "tolist") else value


def _words(kind: Any) -> str:
    """What a kind is called that has arguments or is a class of ours."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return {Sequence: "a list", Mapping: "a mapping", Callable: "a function"}.get(get_origin(kind), getattr(kind, "__name__", str(kind)))
