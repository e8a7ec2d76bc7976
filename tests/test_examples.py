"""The examples run, shortened, on real data, and what they record can be analyzed.

Every day those that train for a moment; with `-m slow`, and in `.ci/run`, all.
"""

import argparse
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData
from sklearn.datasets import load_digits
from torchvision.models.resnet import Bottleneck, ResNet

from landscape_hooks import Curvature, Surface, Trajectory, analyze

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, status: int = 0) -> str:
    """Run an example as a user does."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run an example in this process, which spares importing torch anew."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run_example(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def colours(picture: Path) -> int:
    """How many colours a picture has: an empty one has few."""
    with Image.open(picture) as image:
        return len(image.convert("RGB").getcolors(2**24))


PAGE = (EXAMPLES.parent / "docs/examples.md").read_text()
COMMANDS = re.findall(
    r"^python examples/(\w+\.py)(.*)$", PAGE, re.MULTILINE
)  # the trainers' are run beside their tests
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


class Understood(Exception):
    """Raised in place of the work, when the arguments were taken."""


@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_the_commands_of_the_page_are_understood(name, arguments, run_here, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(Understood):
        run_here(name, *shlex.split(arguments))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_explains_itself(name, run_here, capsys):
    assert name in {command for command, _ in COMMANDS}, f"{name} is not on docs/examples.md"
    with pytest.raises(SystemExit) as stopped:
        run_here(name, "--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert f"python examples/{name}" in said
    assert "--out" in said


def test_the_page_names_a_script_for_each_trainer():
    scripts = {path.name for path in (EXAMPLES / "trainers").glob("*_digits.py")}
    assert set(re.findall(r"examples/trainers/(\S+\.py) --out", PAGE)) == scripts
    adapters = {path.stem for path in (EXAMPLES.parent / "integrations").glob("*.py")} - {
        "__init__",
        "adapter",
        "trackers",
    }
    assert {name.removesuffix("_digits.py") for name in scripts} == adapters


@pytest.mark.slow
def test_plain_loop(tmp_path):
    store = tmp_path / "plain.zarr"
    run("plain_loop.py", "--out", str(store), "--epochs", "2")
    trajectory = Trajectory.open(store)
    assert trajectory.steps[0] == 0
    assert trajectory.steps[-1] == 2 * 29
    surface = analyze(store, size=3, progress=False)
    assert surface.complete
    assert surface.path_loss[-1] < surface.path_loss[0]


# -- the founding experiment ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """scikit-learn's digits as a folder of 32×32 pictures, like CIFAR-10's."""
    folder = tmp_path_factory.mktemp("pictures")
    raw = load_digits()
    for number, (image, target) in enumerate(zip(raw.images[:120], raw.target, strict=False)):
        place = folder / ("train" if number < 90 else "test") / f"digit{target}"
        place.mkdir(parents=True, exist_ok=True)
        large = Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        large.convert("RGB").save(place / f"{number}.png")
    return folder


SHORT = ["--quick", "--epochs=2", "--images=32", "--batch=16", "--keep=5", "--samples=8", "--size=3", "--frames=3",
         "--test-images=20"]  # fmt: skip


def check_page(folder: Path) -> None:
    """Everything is on the page, and it needs no other file."""
    page = (folder / "comparison.html").read_text()
    assert "QUICK: ResNet-50 and VGG-11" in page
    assert page.count("data:image/png;base64,") == 1 + 2 * 2 * 2 + 2
    assert page.count("data:image/gif;base64,") == 2
    assert "random 9 of 9, pca 9 of 9" in page
    assert page.count(" src=") == page.count(' src="data:')
    assert colours(folder / "comparison.png") > 50


@pytest.mark.slow
def test_cifar10(monkeypatch, capsys, pictures, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    cifar10 = importlib.import_module("cifar10")
    assert sum(p.numel() for p in cifar10.resnet50().parameters()) == 23_520_842
    short_resnet = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10)  # the whole one is for the slow test
    monkeypatch.setitem(cifar10.NETWORKS, "resnet50", lambda: short_resnet)
    for model in ("vgg11", "resnet50"):
        assert not (tmp_path / "comparison.html").exists()
        arguments = ["--model", model, "--data", str(pictures), "--out", str(tmp_path), *SHORT]
        monkeypatch.setattr(sys, "argv", ["cifar10.py", *arguments])
        cifar10.main()
        assert "QUICK" in capsys.readouterr().out

    trajectory = Trajectory.open(tmp_path / "vgg11.zarr")
    assert trajectory.steps[0] == 0
    assert trajectory.steps[-1] == 4
    assert trajectory.layout.size == json.loads((tmp_path / "vgg11.json").read_text())["parameters"]
    random, pca = (Surface.open(tmp_path / "vgg11.zarr", name) for name in ("random", "pca"))
    assert random.attrs["extent"] == [-1, 1, -1, 1]
    assert random.complete
    assert pca.complete
    # the origin of both planes is the trained network
    assert random.loss[1, 1] == pytest.approx(pca.path_loss[-1], rel=1e-5)
    mesh = PlyData.read(tmp_path / "vgg11_pca.ply")["vertex"]
    assert sorted(mesh["quality"])[-1] == pytest.approx(pca.loss.max(), rel=1e-6)
    for picture in ("vgg11_random.png", "resnet50_pca_contours.png", "resnet50_loss.png"):
        assert colours(tmp_path / picture) > 50
    with Image.open(tmp_path / "resnet50_replay.gif") as replay:
        assert replay.n_frames == 3
    check_page(tmp_path)


@pytest.mark.slow
def test_cifar10_with_the_whole_resnet50(pictures, tmp_path):
    for model, shorter in (("vgg11", []), ("resnet50", ["--epochs=1", "--images=16", "--batch=8", "--samples=4"])):
        run("cifar10.py", "--model", model, "--data", str(pictures), "--out", str(tmp_path), *SHORT, *shorter)
    check_page(tmp_path)
    assert "23,520,842" in (tmp_path / "comparison.html").read_text()


def test_cifar10_says_what_stands_in_the_way(run_here, pictures, tmp_path, capsys):
    arguments = ["--model", "vgg11", "--out", str(tmp_path), *SHORT]
    with pytest.raises(SystemExit) as stopped:
        run_here("cifar10.py", "--data", str(tmp_path / "nowhere"), *arguments)
    assert stopped.value.code == 2
    assert "--download" in capsys.readouterr().err
    (tmp_path / "vgg11.zarr").mkdir()
    with pytest.raises(SystemExit):
        run_here("cifar10.py", "--data", str(pictures), *arguments)
    assert "did not finish" in capsys.readouterr().err


# -- the small ones ------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_skip_connections(run_here, tmp_path):
    short = ["--blocks=2", "--epochs=1", "--samples=32", "--size=3"]
    said = run_here("skip_connections.py", "--out", str(tmp_path), *short)
    assert said.count("test images right") == 2
    with_, without = (Surface.open(tmp_path / f"{name}.zarr") for name in ("with", "without"))
    assert with_.attrs["extent"] == without.attrs["extent"]
    assert with_.attrs["batch_norm"] == "fixed"
    assert with_.attrs["data_digest"] == without.attrs["data_digest"]
    assert not np.allclose(with_.loss, without.loss)
    assert colours(tmp_path / "without.png") > 50


@pytest.mark.slow
def test_language_model(run_here, tmp_path):
    short = ["--texts=96", "--epochs=2", "--samples=8", "--size=3"]
    run_here("language_model.py", "--out", str(tmp_path), *short)
    trajectory = Trajectory.open(tmp_path / "docstrings.zarr")
    tied = [entry for entry in trajectory.layout.entries if entry.aliases]
    assert [(entry.name, entry.aliases) for entry in tied] == [("embedding.weight", ("head.weight",))]
    surface = Surface.open(tmp_path / "docstrings.zarr")
    assert surface.complete
    assert surface.path_loss[0] == pytest.approx(np.log(128), rel=0.1)  # an untrained model guesses
    assert surface.path_loss[-1] < surface.path_loss[0]


@pytest.mark.slow
def test_attack(run_here, tmp_path):
    short = ["--epochs=1", "--samples=16", "--size=3", "--steps=3"]
    run_here("attack.py", "--out", str(tmp_path), *short)
    clean, pgd, smoothed = (Surface.open(tmp_path / "digits.zarr", name) for name in ("clean", "pgd", "pgd-smoothed"))
    assert np.array_equal(clean.alpha, pgd.alpha)
    assert np.array_equal(clean.path, pgd.path)
    assert clean.attrs["data_digest"] == pgd.attrs["data_digest"] == smoothed.attrs["data_digest"]
    assert pgd.path_loss[-1] > clean.path_loss[-1]
    assert (pgd.loss >= clean.loss - 1e-4).mean() > 0.9  # ascent may miss, rarely
    assert not np.array_equal(smoothed.loss, pgd.loss)
    assert colours(tmp_path / "attack.png") > 50


@pytest.mark.slow
def test_a_crashed_training_resumes_as_if_nothing_had_happened(run_here, tmp_path):
    crashed, whole = tmp_path / "crashed", tmp_path / "whole"
    run("resume.py", "--out", str(crashed), "--epochs=3", "--crash-at=40", status=1)
    assert Trajectory.open(crashed / "digits.zarr").steps[-1] < 66
    assert "going on after epoch 1" in run_here("resume.py", "--out", str(crashed), "--epochs=3")
    run_here("resume.py", "--out", str(whole), "--epochs=3")
    a, b = (Trajectory.open(folder / "digits.zarr") for folder in (crashed, whole))
    assert list(a.steps) == list(b.steps) == list(range(67))
    assert np.array_equal(a.losses, b.losses, equal_nan=True)
    assert all(np.array_equal(x.weights, y.weights) for x, y in zip(a, b, strict=True))


@pytest.mark.more
def test_object_store(run_here, tmp_path):
    url = f"memory://{tmp_path.name}/digits.zarr"
    said = run_here("object_store.py", "--store", url, "--out", str(tmp_path), "--epochs=1", "--size=3")
    assert url in said
    assert list(Trajectory.open(url).steps) == [0, 5, 10, 15, 20, 22]
    surface = Surface.open(url)
    assert surface.complete
    assert len(PlyData.read(tmp_path / "digits.ply")["vertex"].data) >= 9


@pytest.mark.slow
def test_optimizers(run_here, tmp_path):
    run_here("optimizers.py", "--out", str(tmp_path), "--epochs=1", "--size=3", "--frames=3")
    surface = Surface.open(tmp_path / "sgd.zarr", "optimizers")
    assert [path.label for path in surface.paths] == ["sgd", "momentum", "adam", "rmsprop"]
    assert all(path.step[-1] == 22 for path in surface.paths)
    # all start at the same weights and nobody ends where another does
    assert all(path.loss[0] == surface.paths[0].loss[0] for path in surface.paths)
    assert len({float(path.loss[-1]) for path in surface.paths}) == 4
    with Image.open(tmp_path / "optimizers.gif") as replay:
        assert replay.n_frames == 3
    assert colours(tmp_path / "optimizers_contours.png") > 50


@pytest.mark.slow
def test_learning_rate(run_here, tmp_path):
    said = run_here("learning_rate.py", "--out", str(tmp_path), "--epochs=1", "--size=3")
    assert said.count("test images right") == 4
    joint = Surface.open(tmp_path / "rate0.1_batch16.zarr", "joint")
    assert [int(path.step[-1]) for path in joint.paths] == [89, 22, 89, 22]
    for run_name, path in (("rate0.3_batch16", joint.paths[2]), ("rate0.3_batch64", joint.paths[3])):
        line = Surface.open(tmp_path / f"{run_name}.zarr", "line")
        assert line.shape == (7, 1)
        assert line.loss[3, 0] == pytest.approx(path.loss[-1], rel=1e-5)
    assert colours(tmp_path / "curves.png") > 50


@pytest.mark.slow
def test_edge_of_stability(run_here, tmp_path):
    said = run_here(
        "edge_of_stability.py", "--out", str(tmp_path), "--rates", "0.5", "0.7", "--steps=1000", "--samples=400",
        "--snapshots=15",
    )  # fmt: skip
    assert said.count("the edge of stability") == 2
    found = Curvature.open(tmp_path / "0.5.zarr")
    assert found.threshold.tolist() == [4.0] * len(found)
    assert found.sharpness[0] < 3
    assert found.sharpness[-1] == pytest.approx(4, rel=0.1)
    assert colours(tmp_path / "edge_of_stability.png") > 50


@pytest.mark.slow
def test_mode_connectivity(run_here, tmp_path):
    said = run_here("mode_connectivity.py", "--out", str(tmp_path), "--epochs=8", "--size=3")
    straight, curved = (float(number) for number in re.findall(r"(?:line|curve) (\d+\.\d+)", said))
    assert curved < straight / 2
    surface = Surface.open(tmp_path / "first.zarr", "points")
    ends = np.array([path.coordinates[-1] for path in surface.paths])
    assert max(path.distance[-1] for path in surface.paths) < 1e-3  # the three points span the plane
    assert ends[0] == pytest.approx([0, 0], abs=1e-6)
    assert ends[1, 1] == pytest.approx(0, abs=1e-4)
    assert colours(tmp_path / "connected_contours.png") > 50
