"""The command line. Each command is a file here: it parses options, calls the library, and prints.

A command imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from landscape_hooks.errors import LandscapeError, printable
from landscape_hooks.version import __version__

COMMANDS = ("demo", "import", "info", "analyze", "curvature", "export", "view", "serve", "render")


class _Lazy(click.Group):
    """Imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        name = f"{name}_" if iskeyword(name) else name
        return getattr(import_module(f"landscape_hooks.cli.{name}"), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args and os.path.exists(args[0]):
                raise click.UsageError(f"'{args[0]}' is a run or a file, not a command. "
                                       f"Name one first: landscape-hooks info {args[0]}") from None  # fmt: skip
            raise


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="First steps:  landscape-hooks demo.  Then put record(model, optimizer, 'RUN.zarr', criterion=..., data=...)"
    " into a training script, and:  landscape-hooks analyze RUN.zarr,  landscape-hooks view RUN.zarr",
)
@click.version_option(__version__, prog_name="landscape-hooks")
def commands() -> None:
    """Show the path that an optimizer took over the loss surface it really descended.

    A RUN is the Zarr store that landscape_hooks.record wrote during a training.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. A LandscapeError prints its text on standard error and exits with status 2."""
    try:
        commands.main(args=arguments, prog_name="landscape-hooks", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except LandscapeError as error:
        print(f"landscape-hooks: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # the reader of a pipe (head, less) has ended: this is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that is no longer there, no right to write
        where, why = error.filename or "A file", error.strerror or error
        print(f"landscape-hooks: {printable(f'{where} cannot be read or written ({why})')}.", file=sys.stderr)
        sys.exit(2)
