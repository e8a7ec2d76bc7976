"""Script: the modules of the page joined into one script, without a bundler.

In: the .js files of this folder, each an ES module. Out: one text, in which every module is a function that returns
what it exports, after those that it imports. The page names its SHA-256 in its content security policy.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib import resources
from pathlib import PurePosixPath

FOLDERS = ("geometry", "replay", "screen", "page")
ENTRY = "page/main.js"

IMPORT = re.compile(r'^import (?P<names>\{[^}]*\}|\* as \w+) from "(?P<file>[^"]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:const|function|class) (?P<name>\w+))", re.MULTILINE)


def files() -> dict[str, str]:
    """The text of every module by its path in this folder."""
    home = resources.files("landscape_hooks.viewer.web")
    found = {}
    for folder in FOLDERS:
        for file in (home / folder).iterdir():
            if file.name.endswith(".js"):
                found[f"{folder}/{file.name}"] = file.read_text("utf-8")
    return found


@lru_cache(maxsize=1)
def script() -> str:
    """The whole script."""
    return joined(files(), ENTRY)


def joined(modules: dict[str, str], entry: str) -> str:
    """`entry` and the modules that it needs, each after those that it imports.

    Raises
    ------
    ValueError
        a module imports one that is not there, or two import each other.
    """
    parts: list[str] = []
    done: set[str] = set()

    def add(path: str, above: tuple[str, ...]) -> None:
        if path in above or path not in modules:
            raise ValueError(f"{' imports '.join([*above, path])}: " + ("a circle" if path in above else "not there"))
        if path in done:
            return
        for found in IMPORT.finditer(modules[path]):
            add(beside(path, found["file"]), (*above, path))
        done.add(path)
        parts.append(wrapped(path, modules[path]))

    add(entry, ())
    return '"use strict";\n' + "\n".join(parts)


def wrapped(path: str, text: str) -> str:
    """A module as a function that returns what it exports."""

    def taken(found: re.Match[str]) -> str:
        source, names = variable(beside(path, found["file"])), found["names"]
        if names.startswith("*"):
            return f"const {names.removeprefix('* as ')} = {source};\n"
        return f"const {names.replace(' as ', ': ')} = {source};\n"

    exports = ", ".join(found["name"] for found in EXPORT.finditer(text))
    body = EXPORT.sub("", IMPORT.sub(taken, text))
    return f"// ---- {path}\nconst {variable(path)} = (() => {{\n{body}return {{ {exports} }};\n}})();\n"


def beside(path: str, file: str) -> str:
    """The path of a file that is named from `path`."""
    parts: list[str] = []
    for part in (PurePosixPath(path).parent / file).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def variable(path: str) -> str:
    """The name of what a module exports."""
    return "$" + re.sub(r"\W", "_", path.removesuffix(".js"))


def digest(text: str) -> str:
    """The source of a script or style as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
