"""A training that diverged is drawn up to its last finite snapshot, and it is said what was left out."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import PCA, Local, Points, Random, Snapshots, Surface, Trajectory, analyze, verify
from landscape_hooks.cli.analyze import analyze as command
from landscape_hooks.errors import RunError
from landscape_hooks.mesh.captions import caption
from landscape_hooks.mesh.mesh import Height
from landscape_hooks.objective.capture import capture
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter
from landscape_hooks.viewer.live import extend

SNAPSHOTS = 8
HEIGHT = Height("linear", 0.0, 1.0)


@pytest.fixture(scope="module")
def trained():
    """Model, samples, and eight snapshots (weights, buffers) of an ordinary training."""
    torch.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), nn.CrossEntropyLoss()
    x, y = torch.randn(16, 3), torch.randint(0, 2, (16,))
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    optimizer, rows = torch.optim.SGD(model.parameters(), lr=0.2), []
    for _ in range(SNAPSHOTS):
        rows.append((layout.flatten(model).detach().numpy().copy(), buffers.flatten(model).detach().numpy().copy()))
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model, (x, y), rows


@pytest.fixture
def run_of(trained, tmp_path):
    """Writes a run of these snapshots; `broken` maps places to functions that change weights and buffers in place."""

    def write(broken=(), name="run", scale=1.0):
        model, (x, y), rows = trained
        path = str(tmp_path / f"{name}.zarr")
        root = create_run(path)
        layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
        capture(root, copy.deepcopy(model), criterion=nn.CrossEntropyLoss(), data=[(x, y)], samples=16)
        writer = TrajectoryWriter.create(root, layout, buffers, groups=1)
        for place, (weights, own) in enumerate(rows):
            weights, own = scale * weights, own.copy()
            if place in broken:
                broken[place](weights, own)
            scalars = {"step": [10 * place], "epoch": [0.0], "loss": [np.nan], "wall_time": [1e9 + place]}
            writer.append(Rows(weights[None], own[None], scalars, np.array([[0.2]])))
        return path

    return write


def nan(weights, buffers):
    weights[3] = np.nan


def inf(weights, buffers):
    weights[:] = np.inf


def minus_inf(weights, buffers):
    weights[-1] = -np.inf


def nan_buffer(weights, buffers):
    buffers[0] = np.nan


def inf_buffer(weights, buffers):
    buffers[-1] = np.inf


def explodes(weights, buffers):
    """Weights that are finite and a loss that is not."""
    weights *= 1e30


def drawn(*runs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return analyze(*runs, progress=False, **{"size": 3, "engine": Local(tune=False), **options})


def same(one, other):
    for key in ("loss", "path", "path_loss", "path_plane_loss", "path_distance", "alpha", "beta", "steps"):
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)


@pytest.mark.everyday(2)
# -- the end is not finite -----------------------------------------------------------------------------------
@pytest.mark.everyday(1)
@pytest.mark.parametrize(
    ("what", "directions"),
    [(what, "pca") for what in (nan, inf, minus_inf, explodes)]
    + [(nan, PCA(solver="covariance")), (inf, "random"), (explodes, "hessian"), (minus_inf, Points("0,20,40"))],
)
def test_a_diverged_run_is_drawn_as_if_it_had_ended_before(run_of, what, directions):
    path = run_of({6: what, 7: what})
    surface = drawn(path, directions=directions)
    same(surface, drawn(run_of(name="short"), directions=directions, snapshots=Snapshots(stop=50)))
    assert surface.steps.tolist() == [0, 10, 20, 30, 40, 50]
    (found,) = surface.definition.divergence
    assert (found.last_finite_step, found.left_out, found.first_step, found.holes) == (50, 2, 60, ())
    assert found.what == ("loss" if what is explodes else "weights")
    said = " ".join(surface.attrs["report"])
    assert f"at step 60 the {found.what} " in said
    assert "The 2 snapshots after step 50 are left out" in said
    if not isinstance(directions, Points):
        assert surface.attrs["origin"] == "last finite snapshot (step 50) of run"
        assert surface.attrs["origin_step"] == 50
    assert "diverged after step 50" in caption(surface, HEIGHT)
    assert verify(path).holds


def test_of_a_sound_run_nothing_is_said(run_of):
    surface = drawn(run_of())
    assert surface.definition.divergence == ()
    assert surface.attrs["origin"] == "final snapshot of run"
    assert "diverged" not in " ".join(surface.attrs["report"]) + caption(surface, HEIGHT)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("what", [nan, inf, explodes])
def test_what_is_left_out_is_asked_for_again_and_goes_on(run_of, what):
    path = run_of({7: what})
    first = drawn(path, name="mine")
    again = drawn(path, name="mine")  # nothing new: the same definition
    same(first, again)
    assert first.attrs["definition"] == again.attrs["definition"]
    assert "snapshot after step 60 is left out" in " ".join(first.attrs["report"])


@pytest.mark.everyday(1)
# -- the middle is not finite --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("what", "directions"),
    [
        (nan, "pca"),
        (inf, PCA(solver="covariance")),
        (nan, PCA(solver="incremental")),
        (inf, "random"),
        (nan, "hessian"),
    ],
)
def test_a_training_that_recovered_is_drawn_without_what_is_not_finite(run_of, what, directions):
    path = run_of({0: what, 3: what, 4: what})
    surface = drawn(path, directions=directions)
    same(surface, drawn(run_of(name="sound"), directions=directions, snapshots=Snapshots(only=[10, 20, 50, 60, 70])))
    (found,) = surface.definition.divergence
    assert (found.left_out, found.holes, found.what) == (0, (0, 30, 40), "")
    said = "3 snapshots are left out of the path for NaN or infinite values (step 0, 30, 40)."
    assert said in surface.attrs["report"]


def test_both_the_middle_and_the_end(run_of):
    surface = drawn(run_of({2: nan, 7: inf}))
    (found,) = surface.definition.divergence
    assert (found.last_finite_step, found.left_out, found.holes) == (60, 1, (20,))
    assert surface.steps.tolist() == [0, 10, 30, 40, 50, 60]


def test_a_loss_that_is_infinite_on_the_way_stays_on_the_path(run_of):
    """The weights are finite, so the snapshot has a place; its loss is what it is."""
    surface = drawn(run_of({3: lambda w, b: np.multiply(w, 1e25, out=w)}), directions=Random("none"))
    assert len(surface.steps) == SNAPSHOTS
    assert surface.definition.divergence == ()


@pytest.mark.everyday(1)
# -- buffers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("what", "policy"),
    [(nan_buffer, "batch"), (inf_buffer, "fixed"), (nan_buffer, "interpolate"), (inf_buffer, "recalibrate")],
)
def test_buffers_count_where_the_policy_reads_them(run_of, what, policy):
    path = run_of({6: what, 7: what})
    surface = drawn(path, batch_norm=policy)
    assert np.isfinite(surface.loss).all()
    assert np.isfinite(surface.path_loss).all()
    if policy == "batch":
        assert len(surface.steps) == SNAPSHOTS
    elif what is nan_buffer or policy == "interpolate":
        assert surface.steps[-1] == 50
        same(surface, drawn(run_of(name="short"), batch_norm=policy, snapshots=Snapshots(stop=50)))


def test_a_buffer_in_the_middle_counts_for_interpolation_only(run_of):
    path = run_of({3: nan_buffer})
    assert len(drawn(path, batch_norm="fixed").steps) == SNAPSHOTS
    surface = drawn(path, batch_norm="interpolate")
    assert surface.definition.divergence[0].holes == (30,)
    assert np.isfinite(surface.loss).all()


# -- nothing is finite, and several runs ---------------------------------------------------------------------
@pytest.mark.parametrize("directions", ["pca", "random", "hessian"])
def test_a_run_without_a_finite_snapshot_is_refused(run_of, directions):
    path = run_of(dict.fromkeys(range(SNAPSHOTS), nan))
    with pytest.raises(RunError, match="None of the 8 snapshots of run has finite weights"):
        drawn(path, directions=directions)
    assert "surfaces" not in open_run(path)


def test_one_finite_snapshot_has_no_principal_components(run_of):
    path = run_of(dict.fromkeys(range(1, SNAPSHOTS), nan))
    with pytest.raises(RunError, match="1 snapshot"):
        drawn(path)
    assert drawn(path, directions="random").steps.tolist() == [0]


def test_one_run_of_several_diverged(run_of):
    sound, broken = run_of(name="sound"), run_of({5: nan, 6: inf, 7: nan}, name="broken", scale=1.5)
    surface = drawn(sound, broken)
    assert [len(path) for path in surface.paths] == [8, 5]
    (found,) = surface.definition.divergence
    assert (found.run, found.last_finite_step, found.left_out) == ("broken", 40, 3)
    assert any(s.startswith("broken: The training diverged") for s in surface.attrs["report"])
    assert surface.attrs["origin"] == "final snapshot of sound"
    first = drawn(broken, sound, name="other")
    assert [len(path) for path in first.paths] == [5, 8]
    assert first.attrs["origin"] == "last finite snapshot (step 40) of broken"
    lost = run_of(dict.fromkeys(range(SNAPSHOTS), nan), name="lost")
    with pytest.raises(RunError, match=r"of lost has finite weights.*leave this one out"):
        drawn(sound, lost)


# -- beside the analysis -------------------------------------------------------------------------------------
def test_the_window_does_not_bring_back_what_was_left_out(run_of):
    path = run_of({6: nan, 7: inf})
    assert extend(open_run(path), drawn(path)) is None
    assert extend(open_run(path), drawn(path, snapshots=Snapshots(stop=30), name="early")) is None


def test_snapshots_may_be_cut_by_hand_before_they_are_finite(run_of):
    path = run_of({6: nan, 7: nan})
    surface = drawn(path, snapshots=Snapshots(stop=50))
    assert surface.definition.divergence == ()
    assert len(Trajectory.open(path)) == SNAPSHOTS


def test_a_stored_divergence_of_another_form_is_refused(run_of):
    path = run_of({7: nan})
    drawn(path, name="mine")
    for key, wrong in (("divergence", [3]), ("divergence", "x"), ("divergence", [{"run": 1}]), ("last_step", "7")):
        group = open_run(path, mode="r+")["surfaces/mine"]
        before = group.attrs[key]
        group.attrs[key] = wrong
        with pytest.raises(RunError, match=key):
            Surface.open(path, "mine")
        group.attrs[key] = before
    assert Surface.open(path, "mine").definition.last_step == 70


def test_the_command_line_draws_it_too(run_of):
    from click.testing import CliRunner

    done = CliRunner().invoke(command, [run_of({7: nan}), "--size", "3", "--no-tune", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "The training diverged: at step 70" in done.output
