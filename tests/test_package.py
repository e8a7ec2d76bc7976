"""The wheel and the sdist: what is in them, and that what they install runs outside the checkout."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is built from the sdist, so that one proves the other."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"landscape_hooks"}
    assert {"landscape_hooks/py.typed", "landscape_hooks/integrations/__init__.py"} <= names
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "landscape_hooks").rglob("*.py")}
    sources |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "landscape_hooks/viewer/gl/shaders").iterdir()}
    web = ROOT / "landscape_hooks/viewer/web"
    sources |= {p.relative_to(ROOT).as_posix() for kind in ("*.js", "*.css", "*.html") for p in web.rglob(kind)}
    sources |= {f"landscape_hooks/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "integrations").rglob("*.py")}
    assert sources <= names, sorted(sources - names)
    assert "License-Expression: MIT" in metadata
    assert any("licenses/LICENSE" in name for name in names)


def test_the_sdist_holds_what_a_packager_needs(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml", ".ci/run"}
    for folder in ("tests", "docs", "examples", "benchmarks", "integrations"):
        wanted |= {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py")}
    wanted |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert wanted <= names, sorted(wanted - names)
    assert not [name for name in names if "__pycache__" in name or ".zarr/" in name]


def test_the_installed_wheel_runs_outside_the_checkout(built, tmp_path):
    """In a fresh environment that sees the dependencies, but not the checkout."""
    home = tmp_path / "fresh"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # plain lines: the .pth files in those folders, and with them an editable install, are not followed
    seen = [p for p in sys.path if p.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(seen) + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0])
    where = run(python, "-c", "import landscape_hooks as it; print(it.__file__, it.__version__)", cwd=tmp_path)
    assert where.startswith(str(packages))
    demo = python.with_name("landscape-hooks")
    said = run(demo, "demo", "--no-view", "--epochs", "1", "--size", "3", "--out", "out", cwd=tmp_path)
    for name in ("digits.zarr", "digits.ply", "digits_path.ply", "digits.png", "digits.gif", "digits.html"):
        assert (tmp_path / "out" / name).exists()
        assert name in said
