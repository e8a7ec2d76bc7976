"""Planes of every kind through analyze(): paraboloids, several runs, lines, parts, adaptive grids."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import PCA, Local, Points, Random
from landscape_hooks.analysis import filling
from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, LayoutError, ObjectiveError, PlaneError, RunError
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.directions import hessian
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

SIZE = 24


class Bowl(nn.Module):
    """½(θ-c)ᵀH(θ-c) with a known spectrum: 1, 2, ... but for 60 and 40."""

    def __init__(self, start=0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))
        values = torch.arange(1.0, SIZE + 1)
        values[-2:] = torch.tensor([40.0, 60.0])
        self.register_buffer("hessian", (basis * values) @ basis.T)
        self.register_buffer("centre", torch.randn(SIZE, generator=generator))
        self.basis = basis
        self.theta = nn.Parameter(torch.randn(SIZE, generator=torch.Generator().manual_seed(start)))

    def forward(self, batch):
        gap = self.theta - self.centre
        return 0.5 * gap @ self.hessian @ gap + 1 + 0 * batch.sum()

    def at(self, weights):
        gap = np.asarray(weights, dtype=float) - self.centre.double().numpy()
        return 0.5 * gap @ self.hessian.double().numpy() @ gap + 1


class Hollow(Bowl):
    """The bowl without its bottom: NaN where the loss would be low."""

    def forward(self, batch):
        value = super().forward(batch)
        return torch.where(value < 60, torch.nan, value)


def bowl_run(path, start, steps=6, batch=None, kind=Bowl):
    model = kind(start)
    batch = torch.zeros(4, 1) if batch is None else batch
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root = create_run(str(path))
    writer = TrajectoryWriter.create(root, layout, buffers, groups=1)
    capture(root, model, objective=lambda m, b: m(b), data=batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.015)
    for step in range(steps):
        scalars = {"step": [step], "epoch": [np.nan], "loss": [np.nan], "wall_time": [1e9 + 100 * start + step]}
        flat = [
            layout.flatten(model).detach().numpy()[None].copy(),
            buffers.flatten(model).detach().numpy()[None].copy(),
        ]
        writer.append(Rows(*flat, scalars, np.array([[0.015]])))
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bowls")
    return [bowl_run(folder / f"run{start}.zarr", start) for start in range(3)]


def run(*paths, **options):
    return analyze(*paths, progress=False, **{"engine": Local(tune=False), "size": (5, 4), **options})


def plane_of(path, name):
    group = open_run(path)[f"surfaces/{name}"]
    return group["origin"][...].astype(float), group["directions"][...].astype(float)


def check_paraboloid(path, surface):
    """Grid and paths are what the definition gives on the stored plane."""
    model = Bowl()
    origin, vectors = plane_of(path, surface.name)
    expected = [[model.at(origin + a * vectors[0] + b * vectors[1]) for b in surface.beta] for a in surface.alpha]
    np.testing.assert_allclose(surface.loss, expected, rtol=1e-5)
    for one in surface.paths:
        shown = [model.at(origin + c @ vectors) for c in one.coordinates]
        np.testing.assert_allclose(one.plane_loss, shown, rtol=1e-5)


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    "options",
    [
        {"directions": "hessian"},
        {"directions": Points("0,2,5")},
        {"directions": PCA((2, 0))},
        {"directions": Random("none")},
    ],
)
def test_every_plane_shows_the_paraboloid(runs, options):
    check_paraboloid(runs[0], run(runs[0], name="bowl", **options))


def test_the_whole_spectrum_is_stored_whatever_components_are_drawn(runs):
    weights = np.stack([s.weights for s in Trajectory.open(runs[0])]).astype(float)
    values = np.linalg.svd(weights - weights.mean(axis=0), compute_uv=False) ** 2
    for chosen in ((0, 1), (3, 1)):
        run(runs[0], name="spectrum", directions=PCA(chosen))
        surface = Surface.open(runs[0], "spectrum")
        np.testing.assert_allclose(surface.spectrum, values / values.sum(), atol=1e-7)
        np.testing.assert_allclose(surface.explained_variance_ratio, surface.spectrum[list(chosen)], rtol=1e-4)
        assert surface.attrs["labels"] == [f"PC {c + 1}" for c in chosen]


def test_hessian_directions_are_the_eigenvectors(runs):
    surface = run(runs[0], directions="hessian")
    _, vectors = plane_of(runs[0], "hessian")
    basis = Bowl().basis.numpy()
    np.testing.assert_allclose(surface.attrs["direction_attrs"]["eigenvalues"], [60, 40], rtol=1e-3)
    assert abs(vectors[0] @ basis[:, -1]) == pytest.approx(1, abs=1e-4)
    assert abs(vectors[1] @ basis[:, -2]) == pytest.approx(1, abs=1e-4)
    assert surface.attrs["direction_attrs"]["residual"] < 1e-2


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_hessian_of_a_network_equals_the_full_hessian(statistics):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=[(x[:12], y[:12]), (x[12:], y[12:])])
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model).flatten(model)
    theta = layout.flatten(model).detach()
    full = torch.autograd.functional.hessian(lambda w: objective.loss(w, buffers, statistics=statistics), theta)
    values, basis = (v.numpy() for v in torch.linalg.eigh(full.double()))
    found = hessian.directions(objective, theta.numpy(), buffers.numpy(), statistics=statistics, rise=1.0)
    np.testing.assert_allclose(found.attrs["eigenvalues"], [values[-1], values[-2]], rtol=1e-3)
    for k in (0, 1):
        assert abs(found.vectors[k] @ basis[:, -1 - k]) == pytest.approx(1, abs=1e-2)
        assert found.least[k] == pytest.approx(np.sqrt(2 / values[-1 - k]), rel=1e-3)


def test_points_lie_on_their_plane(runs):
    surface = run(*runs, directions="points")
    check_paraboloid(runs[0], surface)
    assert len(surface.paths) == 3
    for one in surface.paths:
        assert one.distance[-1] < 1e-4  # the final snapshots are the three points
        assert surface.alpha[0] <= one.coordinates[-1, 0] <= surface.alpha[-1]
        assert surface.beta[0] <= one.coordinates[-1, 1] <= surface.beta[-1]
    np.testing.assert_allclose(surface.paths[0].coordinates[-1], 0, atol=1e-6)
    assert surface.paths[1].coordinates[-1, 1] == pytest.approx(0, abs=1e-4)  # the second point is on the alpha axis


def test_several_runs_share_one_plane(runs):
    surface = run(*runs, name="joint")
    check_paraboloid(runs[0], surface)
    snapshots = [Trajectory.open(path) for path in runs]
    weights = np.concatenate([np.stack([s.weights for s in t]) for t in snapshots]).astype(float)
    centred = weights - weights.mean(axis=0)
    _, values, basis = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(surface.explained_variance_ratio, (values**2 / (values**2).sum())[:2], rtol=1e-5)
    _, vectors = plane_of(runs[0], "joint")
    np.testing.assert_allclose(np.abs(np.einsum("kd,kd->k", vectors, basis[:2])), 1, atol=1e-5)
    np.testing.assert_allclose(surface.paths[0].coordinates[-1], 0, atol=1e-6)
    assert [p.label for p in surface.paths] == ["run0", "run1", "run2"]
    for one, trajectory in zip(surface.paths, snapshots, strict=True):
        np.testing.assert_allclose(one.loss, [Bowl().at(s.weights) for s in trajectory], rtol=1e-5)
    assert any(s.startswith("run1: ") for s in surface.attrs["report"])


def test_runs_that_do_not_fit_are_refused(runs, tmp_path):
    with pytest.raises(RunError, match="twice"):
        run(runs[0], runs[0])
    other = bowl_run(tmp_path / "other.zarr", 5, batch=torch.ones(4, 1))
    with pytest.raises(ObjectiveError, match="other probe samples"):
        run(runs[0], other)
    model = nn.Linear(3, 2)
    root = create_run(str(tmp_path / "linear.zarr"))
    TrajectoryWriter.create(root, ParameterLayout.of(model), ParameterLayout.of_buffers(model), groups=1)
    with pytest.raises(LayoutError, match="theta"):
        run(runs[0], str(tmp_path / "linear.zarr"))


@pytest.mark.parametrize("points", ["0,1,99", "7:,0,1", "0,0,1", "0,1", "a,b,c"])
def test_points_that_are_none_are_refused(runs, points):
    with pytest.raises(PlaneError, match="point"):
        run(runs[0], directions=Points(points))


@pytest.mark.everyday(2)
# one tensor of one dimension has no filters
@pytest.mark.parametrize("directions", ["pca", Random("none"), "hessian", Points("0,5")])
def test_a_line_is_a_curve_along_the_first_direction(runs, directions):
    surface = run(runs[0], directions=directions, size=(9, 1))
    assert surface.shape == (9, 1)
    assert (surface.path[:, 1] == 0).all()
    check_paraboloid(runs[0], surface)


def test_two_snapshots_are_enough_for_a_line(tmp_path):
    path = bowl_run(tmp_path / "two.zarr", 1, steps=2)
    surface = run(path, size=(5, 1))
    assert surface.path_distance.max() < 1e-5
    with pytest.raises(PlaneError, match="--line"):
        run(path)


def test_parts_are_joined_to_the_same_bits(runs):
    whole = run(runs[1], name="whole")
    for k in (1, 3):
        part = run(runs[1], name="parted", part=f"{k}/3")
        assert 6 <= part.evaluated.sum() <= 7
    assert "parted" not in open_run(runs[1])["surfaces"]
    joined = run(runs[1], name="parted")
    for key in ("loss", "loss_stderr", "path_loss", "path_plane_loss"):
        np.testing.assert_array_equal(getattr(joined, key), getattr(whole, key))
    assert not [n for n in open_run(runs[1])["surfaces"] if "part-" in n]
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(PlaneError, match="part"):
            run(runs[1], part=wrong)


@pytest.mark.more
def test_an_adaptive_surface_says_what_it_evaluated(runs):
    full = run(runs[2], size=(65, 50), name="full")
    surface = run(runs[2], size=(65, 50), adaptive=0.01, name="adaptive")
    assert surface.complete
    assert surface.evaluated.mean() < 0.3
    assert (surface.evaluated ^ surface.interpolated).all()
    np.testing.assert_array_equal(surface.loss[surface.evaluated], full.loss[surface.evaluated])
    error = np.abs(surface.loss / full.loss - 1)
    assert np.quantile(error, 0.95) < 0.01
    assert np.isfinite(surface.interpolation_error[surface.interpolated]).all()
    assert any("interpolated" in s for s in surface.attrs["report"])
    again = run(runs[2], size=(65, 50), adaptive=0.01, name="adaptive")
    np.testing.assert_array_equal(again.loss, surface.loss)
    with pytest.raises(PlaneError, match="adaptive"):
        run(runs[2], adaptive=2.0)
    with pytest.raises(PlaneError, match="part 1/2 of an adaptive surface"):
        run(runs[2], adaptive=0.01, part="1/2")


@pytest.mark.everyday(1)
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {"size": (40, 66)}),
        (1, {"size": 50, "directions": Random("none"), "extent": (-3, 2, -1, 4)}),
        (3, {"size": (48, 35)}),
        (1, {"size": (120, 1)}),
        (1, {"size": 64, "directions": Points("0,2,5")}),
    ],
)
def test_adaptive_keeps_its_tolerance_on_every_plane_and_size(runs, count, options):
    full = run(*runs[:count], name="full", **options)
    surface = run(*runs[:count], name="sparse", adaptive=0.01, **options)
    assert surface.shape == full.shape
    assert (surface.evaluated ^ surface.interpolated).all()
    assert surface.evaluated.mean() < 0.6
    np.testing.assert_array_equal(surface.loss[surface.evaluated], full.loss[surface.evaluated])
    error = np.abs(surface.loss / full.loss - 1)[surface.interpolated]
    assert np.quantile(error, 0.95) < 0.01
    for one, other in zip(surface.paths, full.paths, strict=True):
        np.testing.assert_array_equal(one.plane_loss, other.plane_loss)  # the path is never interpolated


def test_adaptive_evaluates_around_holes_and_invents_nothing(tmp_path):
    path = bowl_run(tmp_path / "hollow.zarr", 0, kind=Hollow)
    options = {"size": (41, 60), "extent": (-4, 4, -3, 6)}
    full, surface = run(path, name="full", **options), run(path, name="sparse", adaptive=0.02, **options)
    hole = np.isnan(full.loss)
    assert 0 < hole.sum() < hole.size / 2
    np.testing.assert_array_equal(np.isnan(surface.loss), hole)
    assert surface.evaluated[hole].all()  # a hole is data, not a guess
    error = np.abs(surface.loss / full.loss - 1)[surface.interpolated]
    assert error.size > 200
    assert np.quantile(error, 0.95) < 0.02
    assert any(f"{hole.sum()} of {hole.size} losses are NaN" in s for s in surface.attrs["report"])


def test_what_is_interpolated_is_shown_wherever_the_surface_is(runs):
    surface = run(runs[2], size=(65, 50), adaptive=0.01, name="adaptive")
    described = next(s for s in describe(runs[2])["surfaces"] if s["name"] == "adaptive")
    assert described["evaluated"] == surface.evaluated.sum()
    assert described["interpolated"] == surface.interpolated.sum()
    error = surface.interpolation_error[surface.interpolated]
    words = f"{surface.interpolated.mean():.1%} interpolated, error about {100 * np.median(error):.1g} %"
    told = description_text(describe(runs[2]))
    assert words in told
    assert all(sentence in told for sentence in surface.attrs["report"])  # what analyze printed, info repeats
    assert any("held-back points err by" in s for s in surface.attrs["report"])


def same(a, b):
    for key in ("loss", "loss_stderr", "evaluated", "interpolated", "interpolation_error", "path_loss"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))


def test_ctrl_c_in_an_adaptive_analysis_and_resuming_gives_the_same_bits(runs, monkeypatch):
    options = {"size": (66, 48), "adaptive": 0.01}
    whole, real, seen = run(runs[1], name="whole", **options), filling.evaluate, []

    def stopped(loss, points, **more):
        for tile in real(loss, points, **more):
            if len(seen) == 90:
                raise KeyboardInterrupt
            seen.append(tile)
            yield tile

    monkeypatch.setattr(filling, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(runs[1], name="stopped", **options)
    monkeypatch.undo()
    assert Surface.open(runs[1], "stopped").evaluated.sum() == 90 < whole.evaluated.sum()
    same(run(runs[1], name="stopped", **options), whole)


@pytest.mark.more
def test_kill_9_in_an_adaptive_analysis_and_resuming_gives_the_same_bits(interpreters, runs):
    options = {"size": (66, 48), "adaptive": 0.01, "engine": Local(tune=False)}
    script = (
        "from landscape_hooks import Local, analyze\n"
        "from landscape_hooks.analysis import commits; commits.COMMIT_SECONDS = 0.0\n"
        f"analyze({runs[1]!r}, name='killed', progress=False, **{options!r})"
    )
    process = interpreters.start(script)
    done = 0
    while process.poll() is None and done < 70:
        time.sleep(0.02)
        try:
            done = int(open_run(runs[1])["surfaces/killed/evaluated"][...].sum())
        except (KeyError, FileNotFoundError):
            continue
    process.kill()  # SIGKILL
    process.wait()
    whole = run(runs[1], name="whole", **options)
    assert 70 <= Surface.open(runs[1], "killed").evaluated.sum() < whole.evaluated.sum()
    same(run(runs[1], name="killed", **options), whole)


def test_a_read_surface_is_the_returned_one(runs):
    surface = run(runs[0], name="same")
    read = Surface.open(runs[0], "same")
    np.testing.assert_array_equal(surface.loss, read.loss)
    assert dict(surface.attrs) == dict(read.attrs)
    with pytest.raises(LandscapeError):
        Surface.open(runs[0], "other")
