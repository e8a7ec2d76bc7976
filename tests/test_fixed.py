"""What does not move is stored once; what begins to move later has columns from then on; all of it is one matrix."""

import numpy as np
import pytest
import torch
import zarr

from landscape_hooks import Trajectory
from landscape_hooks.errors import DamagedRunError, LayoutError
from landscape_hooks.plane import gram
from landscape_hooks.plane.directions import pca
from landscape_hooks.plane.moments import project
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.trajectory.joined import Joined
from landscape_hooks.trajectory.marks import put_mark
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import Fixed
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

NONE = ParameterLayout((), kind="buffer")
PLAIN = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128", "complex32"]
FLOAT8 = [t for t in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
          if hasattr(torch, t)]  # fmt: skip


def entry(name, size, dtype="float32"):
    return ParameterEntry(name, (size,), dtype, 0, size * (2 if dtype.startswith("complex") else 1))


class Model:
    """Three tensors of 5, 4 and 3 numbers: "a" moves, "b" from step 4 on, "c" from step 6 on; numbers by a formula."""

    layout = ParameterLayout.in_order([entry("a", 5), entry("b", 4), entry("c", 3)])
    own = ParameterLayout.in_order([layout[0]])
    later = (ParameterLayout.in_order([layout[1]]), 4), (ParameterLayout.in_order([layout[2]]), 6)

    def weights(self, step):
        """(12,) of a step, the plain way."""
        parts = [np.sin(np.arange(5) + step), np.arange(4.0), np.full(3, -0.5)]
        parts[1] = parts[1] + 0.1 * (step if step >= 4 else 0)
        parts[2] = parts[2] * (step if step >= 6 else 1)
        return np.concatenate(parts).astype("f4")

    def fixed(self):
        start = self.weights(0)
        return [(e, lambda part=start[e.slice]: iter([part])) for e in self.layout.entries[1:]]

    def write(self, root, steps=range(9), **options):
        writer = TrajectoryWriter.create(root, self.own, NONE, groups=1, fixed=self.fixed(), **options)
        for step in steps:
            self.append(writer, step)
        return writer

    def append(self, writer, step):
        for number, (layout, first) in enumerate(self.later):
            if step >= first and len(writer.late) == number:
                writer.extend(layout, step)
        row = self.weights(step)[None]
        late = [row[:, 5:9], row[:, 9:]][: len(writer.late)]
        scalars = {name: [step] for name in ("step", "epoch", "loss", "wall_time")}
        writer.append(Rows(row[:, :5], np.empty((1, 0), "f4"), scalars, np.zeros((1, 1)), late=late))

    def matrix(self, steps):
        return np.stack([self.weights(step) for step in steps])


@pytest.fixture
def root():
    return create_run(zarr.storage.MemoryStore())


@pytest.fixture(params=[0, 6], ids=["growing", "thinned"])
def slots(request):
    return request.param


PARTS = [
    slice(None),
    slice(2, 7),
    slice(4, 5),
    slice(5, 9),
    slice(8, 12),
    slice(3, 3),
    slice(1, None, 3),
    slice(-2, None),
]


@pytest.mark.everyday(1)
@pytest.mark.parametrize("options", [{}, {"compress": "zstd"}, {"dtype": "float64"}])
def test_late_columns_are_part_of_one_matrix(tmp_path, options):
    model = Model()
    root = create_run(tmp_path / "run.zarr")
    model.write(root, **options).close()
    t = Trajectory.open(tmp_path / "run.zarr")
    expected = model.matrix(range(9))
    assert t.layout.names == ("a", "b", "c")
    assert [e.offset for e in t.layout] == [0, 5, 9]
    assert (t.layout.size, t.widths, list(t.fixed)) == (12, (5, 9, 12), [])
    for rows in (slice(None), slice(2, 8), slice(5, 6), slice(0, 0), slice(None, None, 2)):
        for columns in PARTS:
            np.testing.assert_array_equal(t.block(rows, columns), expected[rows, columns])
    np.testing.assert_array_equal(np.stack([s.weights for s in t]), expected)


def test_thinned_rows_are_read_where_they_lie(root):
    model = Model()
    writer = model.write(root, range(6), slots=6)
    writer.retain([0, 2, 4], 2)
    for step in (6, 8, 10):
        model.append(writer, step)
    t = Trajectory.open(root)
    assert t.steps.tolist() == [0, 2, 4, 6, 8, 10]
    for columns in PARTS:
        np.testing.assert_array_equal(t.block(slice(None), columns), model.matrix(t.steps)[:, columns])


def test_what_never_moved_is_read_from_where_it_was_stored(root):
    model = Model()
    model.write(root, range(5))
    t = Trajectory.open(root)
    assert list(t.fixed) == ["c"]
    np.testing.assert_array_equal(t.fixed["c"], model.weights(0)[9:])
    assert t.fixed_layout.names == ("c",)
    with pytest.raises(KeyError):
        t.fixed["b"]
    assert t.nbytes == 5 * 4 * 9


def test_a_writer_that_is_opened_again_goes_on(root, slots):
    model = Model()
    model.write(root, range(5), slots=slots)
    writer = TrajectoryWriter(root)
    assert [late.from_step for late in writer.late] == [4]
    np.testing.assert_array_equal(writer.last_row(), model.weights(4)[:9])
    for step in range(5, 6 if slots else 9):
        model.append(writer, step)
    t = Trajectory.open(root)
    np.testing.assert_array_equal(t.block(), model.matrix(t.steps)[:, : t.layout.size])


@pytest.mark.everyday(2)
@pytest.mark.parametrize("back", [-1, 0, 2, 4, 5])
def test_resuming_before_a_tensor_moved_takes_its_rows_from_there_on(root, back):
    """The second time it moves from the first step on: what is read is what the rows say."""
    model = Model()
    model.write(root, range(8))
    writer = TrajectoryWriter(root)
    writer.truncate(back)
    rows = []
    for step in range(back + 1, 8):
        row = np.random.default_rng(step).normal(size=(1, 12)).astype("f4")
        scalars = {name: [step] for name in ("step", "epoch", "loss", "wall_time")}
        late = [row[:, 5:9], row[:, 9:]]
        writer.append(Rows(row[:, :5], np.empty((1, 0), "f4"), scalars, np.zeros((1, 1)), late=late))
        rows.append(row[0])
    t = Trajectory.open(root)
    expected = np.concatenate([model.matrix(range(back + 1)) if back >= 0 else np.empty((0, 12)), rows])
    np.testing.assert_array_equal(t.block(), expected)


def test_checksums_are_of_late_columns_too(tmp_path):
    model = Model()
    root = create_run(tmp_path / "run.zarr")
    model.write(root, checksum=True)
    assert Trajectory.open(root).verify() == []
    early, late = root["trajectory/late/0/weights"], root["trajectory/late/1/weights"]
    early[2, 0] = 7  # no snapshot has it
    assert Trajectory.open(root).verify() == []
    late[7, 1] += 1
    assert [damage.step for damage in Trajectory.open(root).verify()] == [7]
    writer = TrajectoryWriter(root)
    writer.truncate(3)
    for step in range(4, 9):
        model.append(writer, step)
    assert Trajectory.open(root).verify() == []
    (tmp_path / "run.zarr/fixed/1/c/0").write_bytes(b"short")
    (damage,) = Trajectory.open(root).verify()
    assert (damage.tensor, damage.found) == ("c", None)


def test_a_group_of_late_columns_that_was_only_begun_does_not_count(root):
    model = Model()
    writer = model.write(root, range(4))
    root.create_group("trajectory/late/0")
    assert Trajectory.open(root).layout.size == 5
    again = TrajectoryWriter(root)
    for step in range(4, 7):
        model.append(again, step)
    np.testing.assert_array_equal(Trajectory.open(root).block(), model.matrix(range(7)))
    assert len(writer.late) == 0


def test_inner_products_and_components_are_those_of_the_plain_matrix(root):
    model = Model()
    model.write(root)
    t, plain = Trajectory.open(root), model.matrix(range(9))
    away = plain.astype("f8") - plain[0].astype("f8")
    np.testing.assert_allclose(gram.matrix(t), away @ away.T, rtol=1e-12, atol=1e-12)
    found, expected = (pca.directions(m, components=(0, 1), solver="gram") for m in (t, plain))
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.spectrum, expected.spectrum, rtol=1e-6)


def test_a_stored_gram_matrix_stays_true_when_columns_join(root):
    model = Model()
    writer = model.write(root, range(4))
    gram.stored(root, Trajectory.open(root))
    for step in range(4, 9):
        model.append(writer, step)
    away = model.matrix(range(9)).astype("f8") - model.weights(0)
    np.testing.assert_allclose(gram.stored(root, Trajectory.open(root)), away @ away.T, rtol=1e-12, atol=1e-12)


def test_snapshots_are_projected_onto_an_older_plane(root):
    """A surface of the first five columns: the others are distance from its plane."""
    model = Model()
    model.write(root)
    origin, axes = model.weights(2)[:5], np.eye(5)[:2]
    SurfaceWriter.create(root, "old", np.zeros(2), np.zeros(2), {}, {"origin": origin, "directions": axes.astype("f4")})
    away = model.matrix([3, 4, 8]).astype("f8") - np.concatenate([origin, model.weights(0)[5:]])
    coordinates, distance = project(root["surfaces/old"], Trajectory.open(root), np.array([3, 4, 8]))
    np.testing.assert_allclose(coordinates, away[:, :2], rtol=1e-6)
    np.testing.assert_allclose(distance, np.linalg.norm(away[:, 2:], axis=1), rtol=1e-6)


def test_a_mark_from_before_has_the_stored_values(root):
    model = Model()
    writer = model.write(root, range(5))
    put_mark(root, "early", model.weights(2)[:5], np.empty(0, "f4"), step=2, wall_time=1)
    put_mark(root, "later", model.weights(4)[:9], np.empty(0, "f4"), step=4, wall_time=1)
    for step in (5, 6):
        model.append(writer, step)
    marks = Trajectory.open(root).marks
    np.testing.assert_array_equal(marks["early"].weights, model.weights(2))
    np.testing.assert_array_equal(marks["later"].weights, model.weights(4))
    put_mark(root, "wrong", model.weights(2)[:6], np.empty(0, "f4"), step=2, wall_time=1)
    with pytest.raises(DamagedRunError, match="6 weights"):
        list(Trajectory.open(root).marks)


# -- types ---------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("kind", [*PLAIN, *FLOAT8])
def test_a_tensor_is_stored_in_its_own_type(root, kind):
    tensor = torch.randn(6, dtype=torch.complex64 if kind.startswith("complex") else torch.float32)
    tensor = tensor.to(getattr(torch, kind)).view(2, 3)
    view = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    width = {1: torch.uint8, 2: torch.int16}.get(view.dtype.itemsize)
    stored = view.reshape(-1)
    stored = stored.numpy() if width is None else stored.view(width).numpy().view(bits.stored_type(kind))
    numbers = 12 if kind.startswith("complex") else 6
    it = ParameterEntry("x", (2, 3), kind, 0, numbers)
    TrajectoryWriter.create(root, Model.own, NONE, groups=1, fixed=[(it, lambda: iter([stored[:4], stored[4:]]))])
    fixed = Trajectory.open(root).fixed
    np.testing.assert_array_equal(fixed["x"], tensor.to(torch.complex64 if kind == "complex32" else tensor.dtype)
                                  .to(torch.float32 if kind.startswith(("float8", "bf")) else
                                      torch.complex64 if kind == "complex32" else tensor.dtype).numpy())  # fmt: skip
    np.testing.assert_array_equal(Fixed(root).stored("x"), stored)
    assert Fixed(root).damages() == []
    root["fixed/0"][3] = 2 if stored[3] == 1 else 1
    (damage,) = Fixed(root).damages()
    assert damage.tensor == "x"
    assert str(damage).startswith("the tensor 'x', which does not move: checksum ")


@pytest.mark.parametrize("kind", FLOAT8)
def test_every_8_bit_float_is_the_number_that_torch_says(kind):
    every = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(every).view(getattr(torch, kind)).float().numpy()
    np.testing.assert_array_equal(bits.widened(every, kind), expected)


# -- several runs --------------------------------------------------------------------------------------------
def test_runs_with_other_values_of_what_stands_still_share_no_plane():
    roots = [create_run(zarr.storage.MemoryStore()) for _ in range(3)]
    model, other = Model(), Model()
    other.fixed = lambda: [(e, lambda size=e.size: iter([np.ones(size, "f4")])) for e in Model.layout.entries[1:]]
    for root, made in zip(roots, (model, model, other), strict=True):
        made.write(root, range(3))
    trajectories = [Trajectory.open(root) for root in roots]
    assert len(Joined(trajectories[:2])) == 6
    with pytest.raises(LayoutError, match=r"'b' stands still in '.*', at other values"):
        Joined([trajectories[0], trajectories[2]])


def test_runs_in_which_other_tensors_move_share_the_plane_of_all_of_them():
    """What stands still in one of them is a constant there, in both orders of the runs."""
    roots = [create_run(zarr.storage.MemoryStore()) for _ in range(2)]
    model = Model()
    for root, steps in zip(roots, (range(3), range(8)), strict=True):
        model.write(root, steps)
    short, long = (Trajectory.open(root) for root in roots)
    assert (short.layout.size, long.layout.size) == (5, 12)
    for runs in ((short, long), (long, short)):
        joined = Joined(runs)
        assert joined.layout.names == ("a", "b", "c")
        plain = np.concatenate([model.matrix(run.steps) for run in runs])
        for columns in PARTS:
            np.testing.assert_array_equal(joined.block(slice(None), columns), plain[:, columns])
        np.testing.assert_array_equal(
            joined.select([np.array([0, 2])] * 2).block(), plain[[0, 2, len(runs[0]), len(runs[0]) + 2]]
        )
        np.testing.assert_array_equal(joined[-1].weights, plain[-1])
        assert all(entry.trainable for entry in joined.layout)
        assert list(joined.runs[0].fixed) == []


def test_a_tensor_that_moves_in_one_run_may_have_another_value_in_the_other():
    roots = [create_run(zarr.storage.MemoryStore()) for _ in range(2)]
    model, other = Model(), Model()
    other.fixed = lambda: [(e, lambda size=e.size: iter([np.full(size, 7, "f4")])) for e in Model.layout.entries[1:]]
    model.write(roots[0], range(8))
    other.write(roots[1], range(3))
    joined = Joined([Trajectory.open(root) for root in roots])
    np.testing.assert_array_equal(joined.block(slice(8, None), slice(5, 12)), np.full((3, 7), 7))


def test_a_view_has_the_tensors_in_the_order_asked_for(root):
    model = Model()
    model.write(root, range(8))
    t = Trajectory.open(root)
    view = t.view(ParameterLayout.in_order([t.layout["c"], t.layout["a"]]))
    np.testing.assert_array_equal(view.block(), model.matrix(range(8))[:, [9, 10, 11, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(view[6].weights, view.block()[6])
    with pytest.raises(LayoutError, match="no parameter 'z'"):
        t.view(ParameterLayout.in_order([entry("z", 3)]))
    with pytest.raises(LayoutError, match=r"'a' has the shape \[5\]"):
        t.view(ParameterLayout.in_order([entry("a", 3)]))


# -- what a stranger may have written ------------------------------------------------------------------------
def look(run):
    t = Trajectory.open(run, lambda entry: np.zeros(entry.size, "f4"))
    t.block()
    t.fixed.checksums()
    Fixed(t.root).damages()


HOSTILE = {
    "others that are no list": lambda r: r["fixed"].attrs.update({"others": 3}),
    "others of numbers": lambda r: r["fixed"].attrs.update({"others": [_with(r, 0, name="q")]}),
    "others that are listed already": lambda r: r["fixed"].attrs.update(
        {"others": [_with(r, 0, dtype="int8", offset=0)]}
    ),
    "a reference without digests": lambda r: r["fixed"].attrs.update({"reference": True}),
    "a reference with too few": lambda r: r["fixed"].attrs.update({"reference": True, "digests": ["00"]}),
    "a manifest that is no list": lambda r: r["fixed"].attrs.update({"layout": 3}),
    "a manifest of other sizes": lambda r: r["fixed"].attrs.update({"layout": [_with(r, 0, size=7)]}),
    "another type": lambda r: r["fixed"].attrs.update({"layout": [_with(r, 0, dtype="bfloat16"), _with(r, 1)]}),
    "a longer tensor": lambda r: r["fixed"].attrs.update({"layout": [_with(r, 0, size=400, shape=[400])]}),
    "no array": lambda r: r.__delitem__("fixed/0"),
    "no checksum": lambda r: r["fixed/0"].attrs.put({}),
    "late columns of nobody": lambda r: r["trajectory/late/0"].attrs.update({"layout": [_with(r, 0, name="z")]}),
    "late columns of another size": lambda r: r["trajectory/late/0"].attrs.update(
        {"layout": [_with(r, 0, size=2, shape=[2])]}
    ),
    "late columns twice": lambda r: r["trajectory/late/1"].attrs.update({"layout": [_with(r, 0)]}),
    "a late column that moved before": lambda r: r.attrs.update({"layout": [_with(r, 0, name="b", size=5, shape=[5])]}),
    "a step that is none": lambda r: r["trajectory/late/0"].attrs.update({"from_step": "soon"}),
    "a step below none": lambda r: r["trajectory/late/0"].attrs.update({"from_step": -4}),
    "other numbers": lambda r: r.create_group("trajectory/late/7"),
    "no late array": lambda r: r.__delitem__("trajectory/late/0/weights"),
    "an array that is wider": lambda r: r["trajectory/late/0/weights"].resize((1024, 10**12)),
}


def _with(root, number, **changes):
    return {**root["fixed"].attrs["layout"][number], "offset": 0 if number == 0 else 4, **changes}


@pytest.mark.everyday(7)
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_a_stranger_wrote_is_a_sentence(tmp_path, change):
    root = create_run(tmp_path / "run.zarr")
    Model().write(root, range(8))
    change(open_run(tmp_path / "run.zarr", mode="r+"))
    with pytest.raises((DamagedRunError, LayoutError)):
        look(tmp_path / "run.zarr")
