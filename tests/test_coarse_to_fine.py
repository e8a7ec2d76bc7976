"""A surface is computed coarse to fine, and what is there of it makes a picture at any time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landscape_hooks import Local, Surface, analyze, contour_figure, record
from landscape_hooks.analysis import filling, paths
from landscape_hooks.surface.lattice import finest_whole, lattice, levels, strides

SIDES = st.integers(1, 40)


@given(SIDES, SIDES)
def test_the_levels_are_nested_lattices_and_hold_each_point_once(rows, columns):
    shape, present = (rows, columns), np.zeros((rows, columns), dtype=bool)
    found = levels(shape)
    assert sorted(np.concatenate(found).tolist()) == list(range(rows * columns))
    for stride, points in zip(strides(shape), found, strict=True):
        present.ravel()[points] = True
        whole = lattice(rows, stride), lattice(columns, stride)
        assert present.sum() == len(whole[0]) * len(whole[1])
        assert all(np.array_equal(a, b) for a, b in zip(finest_whole(present), whole, strict=True))


def test_the_default_grid_has_four_lattices():
    assert [(len(lattice(25, s)), s) for s in strides((25, 25))] == [(4, 8), (7, 4), (13, 2), (25, 1)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    store = str(tmp_path_factory.mktemp("run") / "run.zarr")
    model, data = torch.nn.Linear(5, 1), (torch.randn(8, 5), torch.randn(8, 1))
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.05), torch.nn.MSELoss()
    with record(model, optimizer, store, every=1, criterion=criterion, data=data):
        for _ in range(39):
            optimizer.zero_grad()
            criterion(model(data[0]), data[1]).backward()
            optimizer.step()
    return store


def interrupted_after(monkeypatch, evaluations, module=filling):
    """The analysis is stopped when so many losses of a kind were computed."""
    real, done = module.evaluate, 0

    def stopped(loss, points, **options):
        nonlocal done
        for tile in real(loss, points, **options):
            if done >= evaluations:
                raise KeyboardInterrupt
            done += len(tile.index)
            yield tile

    monkeypatch.setattr(module, "evaluate", stopped)


@pytest.mark.everyday(1)
@pytest.mark.parametrize(("points", "side"), [(16, 4), (48, 4), (49, 7), (168, 7), (169, 13), (400, 13)])
def test_any_prefix_is_a_surface_on_the_finest_lattice_that_is_whole(run, points, side, monkeypatch):
    whole = analyze(run, engine=Local(tune=False), progress=False, name="whole")
    with monkeypatch.context() as patch:
        interrupted_after(patch, points)
        with pytest.raises(KeyboardInterrupt):
            analyze(run, engine=Local(tune=False), progress=False, name="part", fresh=True)
    stored = Surface.open(run, "part")
    assert stored.evaluated.sum() == points
    shown, where = stored.so_far(), lattice(25, 24 // (side - 1))
    assert shown.shape == (side, side)
    assert shown.complete
    assert shown.attrs["so_far"].startswith(f"{side} × {side} of 25 × 25 points, ")
    np.testing.assert_array_equal(shown.loss, whole.loss[np.ix_(where, where)])
    assert set(shown.steps) >= {whole.steps[0], whole.steps[-1]}
    np.testing.assert_array_equal(shown.path_loss, whole.path_loss[np.isin(whole.steps, shown.steps)])
    words = " ".join(text.get_text() for text in contour_figure(stored).axes[0].texts)
    assert f"so far: {side} × {side}" in words.replace("\n", " ")
    done = analyze(run, engine=Local(tune=False), progress=False, name="part")
    assert done.so_far() is done
    for key in ("loss", "loss_stderr", "path_loss", "path_plane_loss", "path_distance"):
        np.testing.assert_array_equal(getattr(done, key), getattr(whole, key))


@pytest.mark.everyday(1)
@pytest.mark.parametrize("evaluations", [0, 1, 2, 5, 30])
def test_an_interrupted_path_goes_on_where_it_stopped(run, evaluations, monkeypatch):
    whole = analyze(run, engine=Local(tune=False), size=5, progress=False, name="whole5")
    with monkeypatch.context() as patch:
        interrupted_after(patch, evaluations, paths)
        with pytest.raises(KeyboardInterrupt):
            analyze(run, engine=Local(tune=False), size=5, progress=False, name="path", fresh=True)
    stored = Surface.open(run, "path")
    assert stored.paths[0].evaluated.sum() == evaluations
    assert len(stored.so_far().steps) == evaluations
    done = analyze(run, engine=Local(tune=False), size=5, progress=False, name="path")
    for key in ("loss", "path_loss", "path_plane_loss", "path_distance"):
        np.testing.assert_array_equal(getattr(done, key), getattr(whole, key))


def test_asking_again_computes_no_loss_of_the_path(run, monkeypatch):
    first = analyze(run, engine=Local(tune=False), size=4, progress=False, name="again")
    monkeypatch.setattr(paths, "evaluate", lambda *a, **k: pytest.fail("evaluated"))
    again = analyze(run, engine=Local(tune=False), size=4, progress=False, name="again")
    np.testing.assert_array_equal(first.path_loss, again.path_loss)
