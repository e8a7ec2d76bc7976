"""Marks on a surface: where they lie, what their losses are, what is stored of them and what is said."""

import csv
import shutil

import numpy as np
import pytest
import torch

from landscape_hooks import Snapshots
from landscape_hooks.analysis import paths
from landscape_hooks.errors import DamagedRunError
from landscape_hooks.export.tables import write_csv
from landscape_hooks.objective.objective import Objective
from landscape_hooks.store import schema
from landscape_hooks.store.run import open_run
from landscape_hooks.surface.spots import spots
from landscape_hooks.surface.surface import Surface
from landscape_hooks.trajectory.marks import put_mark
from landscape_hooks.trajectory.trajectory import Trajectory
from tests.test_analysis import Quadratic, bn_run, quadratic_run, run, train  # noqa: F401


def mark(path, name, weights, *, buffers=None, step=5, wall_time=1e9, **facts):
    """Store weights (D,) as a mark of a run."""
    root = open_run(str(path), mode="r+")
    last = Trajectory.open(str(path))[-1]
    own = last.buffers if buffers is None else buffers
    stored = root["trajectory/buffers"].shape[1]
    put_mark(root, name, np.asarray(weights, np.float32), own[:stored], step=step, wall_time=wall_time, **facts)


def counted(monkeypatch):
    """The points that engines are asked for from now on."""
    asked, real = [], paths.evaluate

    def evaluate(loss, points, *, engine):
        asked.extend(np.asarray(points).tolist())
        return real(loss, points, engine=engine)

    monkeypatch.setattr(paths, "evaluate", evaluate)
    return asked


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A run of the quadratic, its model, and marks: off the plane, at the end, beyond the grid, not finite."""
    model, batch = Quadratic(), torch.zeros(4, 1)
    path = tmp_path_factory.mktemp("marks") / "run.zarr"
    train(path, model, lambda m: m(batch), objective=lambda m, b: m(b), data=batch)
    snapshots = Trajectory.open(str(path))
    generator = np.random.default_rng(0)
    weights = {
        "off": snapshots[3].weights + 0.1 * generator.standard_normal(snapshots.layout.size),
        "final": snapshots[-1].weights,
        "far": snapshots[-1].weights + 9 * (snapshots[-1].weights - snapshots[0].weights),
        "broken": np.full(snapshots.layout.size, np.nan),
    }
    for name, values in weights.items():
        mark(path, name, values, step=int(snapshots.steps[-1]))
    return path, Quadratic(), {n: np.asarray(v, np.float32) for n, v in weights.items()}, run(path, size=5)


# -- where they lie, and their losses ------------------------------------------------------------------------------
def test_the_losses_and_places_of_marks_are_those_of_the_definition(marked):
    path, model, weights, surface = marked
    group = open_run(str(path))["surfaces/pca"]
    origin, vectors = group["origin"][...].astype(float), group["directions"][...].astype(float)
    assert [m.name for m in surface.marks] == ["broken", "far", "final", "off"]
    for found in surface.marks[1:]:
        own = weights[found.name].astype(float)
        expected = np.linalg.lstsq(vectors.T, own - origin, rcond=None)[0]
        scale = np.ptp(surface.alpha)
        np.testing.assert_allclose(found.coordinates, expected, rtol=1e-5, atol=1e-6 * scale)
        nearest = origin + found.coordinates @ vectors
        assert found.loss == pytest.approx(model.by_definition(own), rel=1e-5)
        assert found.plane_loss == pytest.approx(model.by_definition(nearest), rel=1e-5)
        assert found.distance == pytest.approx(np.linalg.norm(own - nearest), abs=1e-4)
    assert surface.marks[3].distance > 0.1


def test_a_mark_moves_neither_plane_nor_grid(marked):
    path, _, _, surface = marked
    assert surface.alpha[0] <= surface.path[:, 0].min()
    assert np.ptp(surface.alpha) < 2 * np.ptp(surface.path[:, 0])
    assert len(surface.path) == len(Trajectory.open(str(path)))


def test_the_report_says_what_each_mark_is(marked):
    said = "\n".join(marked[3].attrs["report"])
    off = marked[3].marks[3]
    where = "above" if off.loss > off.plane_loss else "below"
    assert f"off (step 14): loss {off.loss:.3g}"[:20] in said
    assert f"{abs(off.loss - off.plane_loss):.3g} {where} the" in said
    assert "broken (step 14): its weights hold NaN or infinite values; it is not shown." in said
    assert "far (step 14)" in said
    assert "outside the grid" in said


def test_a_mark_at_the_end_of_the_path_names_its_point_and_only_those_on_the_grid_have_one(marked):
    assert [(spot.name, spot.at_end) for spot in spots(marked[3])] == [("final", True), ("off", False)]


# -- with their own buffers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", ["batch", "interpolate", "fixed"])
def test_a_mark_has_its_own_buffers_under_the_policy(bn_run, tmp_path, policy):  # noqa: F811
    path = shutil.copytree(bn_run, tmp_path / "run.zarr")
    snapshots = Trajectory.open(str(path))
    early, end = snapshots[2], snapshots[-1]
    mark(path, "early", early.weights, buffers=early.buffers, step=early.step)
    surface = run(path, size=(4, 4), batch_norm=policy)
    assert surface.marks[0].loss == pytest.approx(surface.path_loss[2], rel=1e-6)
    np.testing.assert_allclose(surface.marks[0].coordinates, surface.path[2], atol=1e-5 * np.ptp(surface.alpha))
    if policy == "interpolate":
        objective = Objective.load(open_run(str(path)))
        weights, own, last = (torch.from_numpy(each) for each in (early.weights, early.buffers, end.buffers))
        found = [objective.evaluate(weights, buffers, statistics="running").mean for buffers in (own, last)]
        assert surface.marks[0].loss == pytest.approx(found[0], rel=1e-5) != pytest.approx(found[1], rel=1e-3)


def test_a_part_of_the_network_has_the_marks_of_that_part(bn_run, tmp_path):  # noqa: F811
    path = shutil.copytree(bn_run, tmp_path / "run.zarr")
    early = Trajectory.open(str(path))[2]
    mark(path, "early", early.weights, buffers=early.buffers, step=early.step)
    surface = run(path, size=(3, 3), snapshots=Snapshots(tensors=("0.*",)), batch_norm="interpolate")
    assert surface.marks[0].loss == pytest.approx(surface.path_loss[2], rel=1e-6)


# -- asked again --------------------------------------------------------------------------------------------------
def test_asked_again_only_a_new_or_replaced_mark_is_computed(marked, tmp_path, monkeypatch):
    path = shutil.copytree(marked[0], tmp_path / "run.zarr")
    asked = counted(monkeypatch)
    before = run(path, size=5)
    assert not asked
    assert [m.name for m in before.marks] == [m.name for m in marked[3].marks]
    mark(path, "new", marked[2]["off"], step=6)
    mark(path, "off", marked[2]["final"], step=14, wall_time=2e9)
    after = {m.name: m for m in run(path, size=5).marks}
    assert len(asked) == 2
    assert len(after) == 5
    assert after["new"].loss == marked[3].marks[3].loss
    assert after["off"].loss == after["final"].loss == before.path_loss[-1]


def test_an_interrupted_analysis_goes_on_with_the_marks_that_it_lacks(marked, tmp_path, monkeypatch):
    path = shutil.copytree(marked[0], tmp_path / "run.zarr")
    put, written = paths.SurfaceWriter.write_mark, []

    def twice(self, found):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(found.name)
        put(self, found)

    monkeypatch.setattr(paths.SurfaceWriter, "write_mark", twice)
    with pytest.raises(KeyboardInterrupt):
        run(path, size=5, fresh=True)
    assert sorted(m.name for m in Surface.open(str(path)).marks) == sorted(written)
    monkeypatch.undo()
    asked = counted(monkeypatch)
    again = run(path, size=5)
    assert len(asked) == 2
    assert [(m.name, m.loss, m.plane_loss) for m in again.marks[1:]] == [
        (m.name, m.loss, m.plane_loss) for m in marked[3].marks[1:]
    ]


def test_each_run_on_a_surface_has_its_own_marks(marked, tmp_path):
    first, second = (shutil.copytree(marked[0], tmp_path / f"{name}.zarr") for name in ("one", "two"))
    mark(second, "off", marked[2]["final"], step=14, wall_time=3e9)
    from landscape_hooks import Local, analyze

    surface = analyze(str(first), str(second), size=3, progress=False, engine=Local(tune=False))
    ours, theirs = ([m for m in surface.marks if m.run == k and m.name == "off"] for k in (0, 1))
    assert ours[0].loss == pytest.approx(marked[3].marks[3].loss, rel=1e-5)
    assert theirs[0].loss == pytest.approx(surface.paths[1].loss[-1])
    assert any(said.startswith("two: off") for said in surface.attrs["report"])


# -- the stored form ----------------------------------------------------------------------------------------------
def test_the_stored_mark_is_what_the_format_says(marked):
    found = open_run(str(marked[0]))["surfaces/pca/marks/0/off"]
    row = schema.field("surfaces/pca/marks/0/off/coordinates")
    assert row.path == "surfaces/*/marks/*/*/coordinates"
    assert found["coordinates"].metadata.dimension_names == row.dims
    assert found["coordinates"].dtype == row.dtype
    assert set(found.attrs) == {
        "step", "epoch", "loss", "loss_stderr", "plane_loss", "distance", "wall_time", "complete"
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["step", "loss", "shape"])
def test_a_damaged_mark_is_refused_and_an_incomplete_one_is_none(marked, tmp_path, damage):
    path = shutil.copytree(marked[0], tmp_path / "run.zarr")
    group = open_run(str(path), mode="r+")["surfaces/pca/marks/0/off"]
    if damage == "shape":
        del group["coordinates"]
        group.create_array("coordinates", shape=(3,), dtype="float64")
    else:
        group.attrs[damage] = {"step": "many", "loss": [1]}[damage]
    with pytest.raises(DamagedRunError):
        Surface.open(str(path))
    group.attrs.put({})
    assert [m.name for m in Surface.open(str(path)).marks] == ["broken", "far", "final"]


def test_the_table_of_marks_has_a_row_each(marked, tmp_path):
    files = write_csv(marked[3], tmp_path / "surface.csv")
    assert files[-1].name == "surface_marks.csv"
    with open(files[-1], newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["mark"] for row in rows] == [m.name for m in marked[3].marks]
    assert float(rows[3]["loss"]) == marked[3].marks[3].loss
    assert float(rows[3]["alpha"]) == marked[3].marks[3].coordinates[0]
