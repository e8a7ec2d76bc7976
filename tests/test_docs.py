"""The code blocks of README and docs run as they stand, and every command and option is described."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import landscape_hooks
from landscape_hooks.cli import COMMANDS, commands
from landscape_hooks.store import schema

ROOT = Path(__file__).parents[1]
PAGES = [p for p in (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md") if p.exists()]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^(?P<mark><!-- [^\n]* -->\n)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELL = ("bash", "sh", "console")

of_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def blocks(page: Path, *languages: str, skipped: bool = False) -> list[tuple[int, str]]:
    """(line, code) of the blocks in these languages; without those marked `<!-- skip: why -->`, if not `skipped`."""
    text = page.read_text()
    return [
        (text[: m.start("code")].count("\n") + 1, m["code"])
        for m in BLOCK.finditer(text)
        if m["language"] in languages and (skipped or not (m["mark"] or "").startswith("<!-- skip"))
    ]


def command_named(name: str) -> click.Command:
    command = commands.get_command(click.Context(commands), name)
    assert command is not None, f"there is no command '{name}'"
    return command


def options_of(command: click.Command) -> set[str]:
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def calls(shell: str) -> Iterator[list[str]]:
    """The arguments of every `landscape-hooks ...` in a block of shell lines."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;<>"):
                if words[:1] == ["landscape-hooks"]:
                    yield words[1:]
                words = []
            else:
                words.append(word)


LONG = ("recipes.md",)
"""Pages whose blocks take long, for `.ci/run`."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=p.relative_to(ROOT).as_posix(), marks=[pytest.mark.more] * (p.name in LONG))
        for p in PAGES
        if blocks(p, "python")
    ],
)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def test_a_recipe_is_short():
    """What people train, each in fewer than 25 lines of code."""
    text = (ROOT / "docs/recipes.md").read_text()
    part = text[text.index("## What people train") : text.index("## Which plane")]
    for recipe in part.split("\n### ")[1:]:
        code = "".join(block["code"] for block in BLOCK.finditer(recipe))
        assert len(code.splitlines()) < 25, recipe.partition("\n")[0]


@of_page
def test_the_commands_of_a_page_exist(page):
    for line, code in blocks(page, *SHELL, skipped=True):
        for words in calls(code):
            if words and words[0] in ("--help", "-h", "--version"):
                continue
            assert words, f"{page.name}:{line}: landscape-hooks without a command"
            try:
                command_named(words[0]).make_context(words[0], list(words[1:]))
            except click.exceptions.Exit:
                assert "--help" in words
            except click.ClickException as error:
                pytest.fail(f"{page.name}:{line}: landscape-hooks {' '.join(words)}: {error.format_message()}")


@of_page
def test_what_the_text_of_a_page_calls_an_option_is_one(page):
    every = set().union(*(options_of(command_named(name)) for name in COMMANDS)) | {"--version"}
    others = {"--no-deps"}  # options of other programs that the text speaks of
    text = BLOCK.sub("", page.read_text())
    for code in INLINE.findall(text):
        words = re.sub(r"[\[\]|\\]", " ", code).split()
        if words[:1] == ["landscape-hooks"] and len(words) > 1:
            if words[1].startswith("-") or words[1].isupper():
                continue
            known = options_of(command_named(words[1]))
        elif code.startswith("--"):
            known = every | others
        else:
            continue
        for word in words:
            option = word.partition("=")[0]
            assert not option.startswith("-") or option == "-" or option in known, f"{page.name}: `{code}`"


@of_page
def test_no_line_of_code_runs_out_of_its_box(page):
    """The theme's column holds some 88 characters; a longer line is cut off by a scroll bar."""
    text = page.read_text()
    for block in BLOCK.finditer(text):
        first = text[: block.start("code")].count("\n") + 1
        for number, line in enumerate(block["code"].splitlines(), first):
            assert len(line) <= 88, f"{page.name}:{number} has {len(line)} characters"


@of_page
def test_the_pictures_of_a_page_are_small(page):
    """A page loads quickly: no still of docs/reading.md is larger than 150 kB."""
    for name in re.findall(r"\]\((images/reading-[\w-]+\.png)\)", page.read_text()):
        assert (page.parent / name).stat().st_size <= 150_000, name


SOURCES = [p for folder in ("landscape_hooks", "integrations") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_what_errors_tell_the_user_to_type_exists():
    every = set().union(*(options_of(command_named(name)) for name in COMMANDS)) | {"--version"}
    for source in SOURCES:
        for text in re.findall(r"mend=.*", source.read_text()):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
                assert option in every, f"{source.name}: {option}"
            for name in re.findall(r"landscape-hooks ([a-z]+)", text):
                assert name in COMMANDS, f"{source.name}: landscape-hooks {name}"


def test_the_extras_that_are_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in [*PAGES, *SOURCES]:
        for named in re.findall(r"landscape-hooks\[([a-z0-9_,-]+)\]", path.read_text()):
            assert set(named.split(",")) <= extras.keys(), f"{path.name}: [{named}]"


def test_what_the_reference_repeats_of_the_code_is_up_to_date():
    specification = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for path, text in module.pages().items():
        assert path.read_text() == text, "run: python docs/make_reference.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name):
    command = command_named(name)
    assert command.help
    reference = (ROOT / "docs/commands.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", reference), f"{name} {option} is not on the page"
    assert f"landscape-hooks {name}" in (ROOT / "README.md").read_text()


@of_page
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", BLOCK.sub("", page.read_text())):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_benchmark_is_described():
    text = (ROOT / "docs/performance.md").read_text()
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"`benchmarks/{script.name}`" in text


def test_the_tests_that_a_page_names_exist():
    """docs/defects.md is worth what the tests in it are."""
    for page in PAGES:
        for file, name in re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", page.read_text()):
            found = list((ROOT / "tests").rglob(file))
            assert found, f"{page.name} names {file}"
            assert not name or re.search(rf"^def {name}\(", found[0].read_text(), re.MULTILINE), f"{page.name}: {name}"


def test_every_page_is_in_the_navigation():
    nav = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    found = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert sorted(nav) == sorted(found), "mkdocs.yml names other pages than there are in docs/"


def test_the_reference_describes_every_public_name_and_no_other():
    page = (ROOT / "docs/api.md").read_text()
    described = set(re.findall(r"^::: landscape_hooks\.[a-z_.]+\.(\w+)$", page, re.MULTILINE))
    modules = {"schedule", "errors"}  # said on the page to be imported from there
    assert described - modules == set(landscape_hooks.__all__) - {"__version__", "LandscapeError", "RecordingWarning"}
    for name in landscape_hooks.__all__:
        assert getattr(landscape_hooks, name)


def test_the_format_page_shows_the_table_of_the_code():
    assert schema.table_markdown() in (ROOT / "docs/format.md").read_text()
