"""The code blocks of README and docs run as they stand, and every command and option is described."""

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from landscape_hooks import schema
from landscape_hooks.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<mark><!-- [^\n]* -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line, code) of each Python block that is not marked `<!-- skip: why -->`."""
    text = page.read_text()
    return [
        (text[: m.start("code")].count("\n") + 1, m["code"])
        for m in BLOCK.finditer(text)
        if not (m["mark"] or "").startswith("<!-- skip")
    ]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    for line, code in blocks(page):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_format_page_shows_the_table_of_the_code():
    assert schema.table_markdown() in (ROOT / "docs/format.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = getattr(import_module(f"landscape_hooks.commands.{name}"), name)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
    assert f"landscape-hooks {name}" in (ROOT / "README.md").read_text()
