"""The command group: commands load when called, and every known error becomes one line and an exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click

from hf_layerprune import __version__
from hf_layerprune.cli.console import Invocation, is_first_process
from hf_layerprune.cli.options import with_setting
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.registry import did_you_mean

COMMANDS = (
    "inspect",
    "convert",
    "probe",
    "plan",
    "apply",
    "heal",
    "evaluate",
    "card",
    "push",
    "verify",
    "strategies",
    "recipes",
    "env",
)  # in the order in which one uses them


class CommandGroup(click.Group):
    """Looks a command up as `hf_layerprune.cli.<name>.<name>`; an unknown name gets its neighbours suggested by click."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"hf_layerprune.cli.{name}"), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"no command {args[0]!r}. {hint}Known: {', '.join(COMMANDS)}.", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hf-layerprune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Make vision-language models shallower: measure, rank and remove decoder layers.

    SOURCE is everywhere a folder, the word mini (the embedded model), or a Hub id.
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main() -> None:
    """Run the command line and exit: 0 done, 1 a known error, 2 wrong usage, 130 interrupted, 143 terminated."""
    words = sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    invocation = Invocation(json="--json" in words and is_first_process())  # so that wrong usage is told as JSON too
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to fail
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(prog_name="hf-layerprune", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"interrupted: {invocation.resume}", err=True)
        _end(invocation, 130, "Interrupted", invocation.resume)
    except click.ClickException as error:
        with_setting(error).show()
        kind = "UsageError" if isinstance(error, click.UsageError) else type(error).__name__
        _end(invocation, error.exit_code, kind, _redacted(error.format_message()))
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(1)
    except Exception as error:
        _fail(error, invocation)


def run() -> None:
    """`main` as a process of its own.

    Where an interrupt passed through Python code that C code ran, as imports of large libraries do, Python ends by the signal whatever
    the status says; here the status counts. What was begun has been unwound by then.
    """
    try:
        main()
    except SystemExit as ended:
        if ended.code == 130:
            os._exit(130)
        raise


def _fail(error: Exception, invocation: Invocation) -> NoReturn:
    if invocation.debug:
        click.echo(_redacted("".join(traceback.format_exception(error)), one_line=False), err=True, nl=False)
    text = _redacted(str(error))
    if not isinstance(error, LayerPruneError):
        hint = "" if invocation.debug else " Run again with --debug for the traceback, and please report it."
        text = f"a fault of hf-layerprune itself: {type(error).__name__}: {text}.{hint}"
    click.echo(f"error: {text}", err=True)
    _end(invocation, 1, type(error).__name__, text)


def _end(invocation: Invocation, code: int, kind: str, message: str) -> NoReturn:
    """Exit, after the error as one JSON object on stdout if JSON was asked for."""
    if invocation.json:
        try:
            click.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}))
        except BrokenPipeError:
            _discard_stdout()
    sys.exit(code)


def _discard_stdout() -> None:
    """Its reader went away: what is left of it goes nowhere, instead of failing once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _redacted(text: str, *, one_line: bool = True) -> str:
    from hf_layerprune.hub.errors import redacted

    return redacted(" ".join(text.split()) if one_line else text, *_secrets())


def _secrets() -> list[str | None]:
    """The token at hand, if anything was asked of the Hub."""
    hub = sys.modules.get("huggingface_hub")
    with suppress(OSError):  # of a home that cannot be read
        return [hub.get_token()] if hub else []
    return []


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends like an exception, so that staging folders are cleared on the way out."""
    sys.exit(128 + number)
