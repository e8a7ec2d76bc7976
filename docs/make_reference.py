"""Write what the reference pages repeat of the code: docs/commands.md, and the table in docs/format.md.

python docs/make_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from landscape_hooks.cli import COMMANDS, commands
from landscape_hooks.store import schema

_BRACKET = "\\["
COMMANDS_PAGE = Path(__file__).with_name("commands.md")
FORMAT_PAGE = Path(__file__).with_name("format.md")
TOP = """\
# Commands

What `landscape-hooks COMMAND --help` prints, on one page. A `RUN` is the Zarr store that `record` wrote: a path or a
URL. Bad input ends with one sentence on standard error and exit status 2. (This page is written by
`python docs/make_reference.py`; a test fails when it is out of date.)
"""


def pages() -> dict[Path, str]:
    """The pages as they ought to be."""
    return {
        COMMANDS_PAGE: _commands(),
        FORMAT_PAGE: _with_table(FORMAT_PAGE, schema.table_markdown()),
    }


def _with_table(page: Path, table: str) -> str:
    """The page with another table between its two marks."""
    begin, mark, rest = page.read_text().partition("<!-- table: begin")
    line, _, rest = rest.partition("\n")
    _, end, after = rest.partition("<!-- table: end")
    return f"{begin}{mark}{line}\n{table}{end}{after}"


def _commands() -> str:
    context = click.Context(commands, info_name="landscape-hooks")
    return "\n".join(
        [TOP, *(line for name in COMMANDS for line in _section(context, name))]
    )


def _section(context: click.Context, name: str) -> Iterator[str]:
    command = commands.get_command(context, name)
    assert command is not None
    inner = click.Context(command, info_name=name, parent=context)
    yield f"## {name}\n"
    yield f"`{inner.command_path} {' '.join(command.collect_usage_pieces(inner))}`\n"
    yield f"{(command.help or '').strip()}\n"
    yield "| option | what it does |"
    yield "|---|---|"
    for parameter in command.params:
        record = parameter.get_help_record(inner)
        if isinstance(parameter, click.Option) and record is not None:
            # in code a bracket stands for itself; in text it would begin a link
            yield f"| `{_cell(record[0])}` | {_cell(record[1]).replace('[', _BRACKET)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
