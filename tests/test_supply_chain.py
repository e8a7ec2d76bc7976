"""What the package is made of: every dependency is used, bounded, declared, and its licence is on the page."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

DISTRIBUTION = {  # where a package is imported under another name
    "sklearn": "scikit-learn", "PIL": "pillow", "google_crc32c": "google-crc32c", "imgui_bundle": "imgui-bundle",
    "ignite": "pytorch-ignite",
}  # fmt: skip
BESIDE = {  # imported where it is there anyway, and asked for by nobody
    "pytorch_lightning": "the older name of lightning, for who has that one",
    "torchmetrics": "comes with lightning",
}
NOT_IMPORTED = {  # asked for, and used without an import
    "s3fs": "opens s3:// URLs for Zarr",
    "torchvision": "the examples' networks and data",
    "accelerate": "transformers' Trainer asks for it",
}
TOOLS = ("test", "docs", "dev")


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


DIRECT = {name_of(r) for r in PROJECT["dependencies"]}
OPTIONAL = {name_of(r) for extra, wishes in EXTRAS.items() if extra not in TOOLS for r in wishes} - {"landscape-hooks"}
EVERY = sorted(DIRECT | OPTIONAL | {name_of(r) for wishes in EXTRAS.values() for r in wishes} - {"landscape-hooks"})


def imports(folder: str) -> set[str]:
    """Distributions that the sources of a folder import, anywhere in them."""
    found = set()
    for source in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
                names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            found |= {name.partition(".")[0] for name in names}
    found -= {*sys.stdlib_module_names, "landscape_hooks"}
    return {DISTRIBUTION.get(name, name) for name in found}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    core, every = imports("landscape_hooks"), imports("landscape_hooks") | imports("integrations")
    assert every - DIRECT - OPTIONAL == set(BESIDE) & every, "imported, but no dependency"
    assert DIRECT - core == set(), "a dependency that nothing imports"
    assert OPTIONAL - every <= set(NOT_IMPORTED), "an extra that nothing imports"


def test_every_dependency_has_a_lower_bound_that_the_command_installs():
    asked = PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["video"]
    bounds = dict(re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", r).groups() for r in asked if r != "torchvision")
    said = subprocess.run([ROOT / ".ci/lowest", "--print"], capture_output=True, text=True, check=True).stdout
    pins = dict(re.match(r"([\w.-]+)(?:\[\w+\])?==([\d.]+)", line).groups() for line in said.split() if "==" in line)
    assert pins == bounds
    for extra, wishes in EXTRAS.items():
        for wish in wishes:
            assert ">=" in wish or name_of(wish) in ("torchvision", "landscape-hooks"), f"[{extra}] {wish}"


def licences() -> dict[str, str]:
    """Name and licence of every row of the page's table."""
    section = (ROOT / "docs/trust.md").read_text().partition("\n## Supply chain\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ([\w-]+) \| ([^|]+?) \|", section, re.MULTILINE))


KINDS = ("MIT", "BSD", "Apache", "GPL", "MPL", "ISC", "Python Software Foundation")


def test_every_dependency_is_on_the_page_with_its_licence():
    listed = licences()
    assert sorted(listed.keys() - {"dependency"}) == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_the_licence_on_the_page_is_that_of_the_package(name):
    try:
        found = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    # get_all: what a missing field gives otherwise depends on the frameworks that were imported before
    fields = [field for key in ("License-Expression", "License", "Classifier") for field in found.get_all(key) or []]
    said = " ".join(f for f in fields if not f.startswith(("Programming", "Topic")))
    said = said.replace("GNU General Public", "GPL").replace("GNU GENERAL PUBLIC", "GPL")
    kinds = {kind for kind in KINDS if re.search(rf"(?<![A-Z]){kind}(?![A-Za-z])", said)}
    assert not kinds or kinds & {k for k in KINDS if k in licences()[name]}, f"{name} says {sorted(kinds)}"


def test_the_extra_for_all_is_all_that_users_want():
    """Every extra but the tools, and the groups in place of their members."""
    inside = {m for group in ("trainers", "trackers") for m in re.findall(r"[\w]+", EXTRAS[group][0].split("[")[1])}
    wanted = EXTRAS.keys() - inside - {"all", *TOOLS}
    assert set(re.findall(r"\w+", EXTRAS["all"][0].split("[")[1])) == wanted
