"""What is committed is read, whole rows only; what is not committed does not exist."""

import numpy as np
import pytest
import zarr
from torch import nn

from landscape_hooks.errors import RunError
from landscape_hooks.store.rowfiles import chunking
from landscape_hooks.store.run import create_run
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

GROUPS = 2


def start(root, size=10, slots=0, **options):
    model = nn.Linear(size, 1, bias=False)
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(nn.BatchNorm1d(2))
    return TrajectoryWriter.create(root, layout, buffers, groups=GROUPS, slots=slots, **options)


def rows(steps, size=10, tail=False):
    steps = np.asarray(steps)
    return Rows(
        weights=(steps[:, None] + np.arange(size) / 100).astype(np.float32),
        buffers=np.repeat(steps[:, None], 4, axis=1).astype(np.float32),
        scalars={"step": steps, "epoch": steps / 2, "loss": -steps, "wall_time": steps + 0.5},
        learning_rate=np.stack([steps * 0.1, steps * 0.2], axis=1),
        tail=tail,
    )


@pytest.fixture
def root():
    return create_run(zarr.storage.MemoryStore())


def test_what_is_written_is_read(root):
    start(root).append(rows([0, 3, 4]))
    t = Trajectory.open(root)
    assert len(t) == 3
    assert t.steps.tolist() == [0, 3, 4]
    assert t.epochs.tolist() == [0, 1.5, 2]
    assert t.losses.tolist() == [0, -3, -4]
    np.testing.assert_allclose(t.learning_rates, [[0, 0], [0.3, 0.6], [0.4, 0.8]])
    last = t[-1]
    assert (last.step, last.loss, last.wall_time) == (4, -4, 4.5)
    np.testing.assert_array_equal(last.weights, rows([4]).weights[0])
    assert last.buffers.tolist() == [4] * 4
    assert [s.step for s in t[1:]] == [3, 4]
    assert [s.step for s in t] == [0, 3, 4]
    with pytest.raises(IndexError):
        t[3]
    assert t.layout.names == ("weight",)
    assert t.buffer_layout.names == ("running_mean", "running_var")


@pytest.mark.parametrize("slots", [0, 8])
def test_a_block_is_a_part_of_the_matrix(root, slots):
    writer = start(root, slots=slots)
    writer.append(rows(range(7)))
    if slots:
        writer.retain([0, 2, 4, 6], 2)
        writer.append(rows([8, 10]))
    t = Trajectory.open(root)
    matrix = rows(t.steps).weights
    for part in (slice(None), slice(2, 5), slice(0, 0), slice(None, None, 2), slice(-2, None)):
        for columns in (slice(None), slice(3, 7), slice(4, 4), slice(1, None, 3)):
            np.testing.assert_array_equal(t.block(part, columns), matrix[part, columns])


def test_an_uncommitted_row_does_not_exist(root):
    writer = start(root)
    writer.append(rows([0, 1]))
    root["trajectory/weights"][2] = 7
    root["trajectory/step"][2] = 2
    assert Trajectory.open(root).steps.tolist() == [0, 1]


def test_a_reader_keeps_what_was_committed_when_it_opened(root):
    writer = start(root)
    writer.append(rows([0, 1]))
    early = Trajectory.open(root)
    writer.append(rows([2]))
    assert len(early) == 2
    assert len(Trajectory.open(root)) == 3
    np.testing.assert_array_equal(early.block(), rows([0, 1]).weights)


def test_a_reader_notices_that_its_row_was_thinned_out_and_reused(root):
    writer = start(root, slots=5)
    writer.append(rows([0, 1, 2, 3]))
    early = Trajectory.open(root)
    writer.retain([0, 2], 2)
    np.testing.assert_array_equal(early[2].weights, rows([2]).weights[0])
    with pytest.raises(RunError, match="replaced the snapshot of step 1"):
        early[1]
    writer.append(rows([4]))
    with pytest.raises(RunError, match="replaced the snapshot of step 1"):
        early.block(slice(1, 2))
    assert Trajectory.open(root).steps.tolist() == [0, 2, 4]


def test_places_are_reused_and_never_more_than_allowed(root):
    writer = start(root, slots=4)
    for step in range(0, 40, 2):
        if len(writer.steps) == 4:
            writer.retain(writer.steps[::2], 0)
        writer.append(rows([step]))
    assert root["trajectory/weights"].shape[0] == 4
    t = Trajectory.open(root)
    np.testing.assert_array_equal(t.block(), rows(t.steps).weights)
    assert t.steps.tolist() == sorted(t.steps.tolist())


def test_truncating_drops_the_later_rows_and_the_tail(root):
    writer = start(root)
    writer.append(rows([0, 5, 10]))
    writer.append(rows([12], tail=True))
    writer.truncate(12)
    assert Trajectory.open(root).steps.tolist() == [0, 5, 10]
    early = Trajectory.open(root)
    writer.truncate(7)
    writer.append(rows([9]))
    assert Trajectory.open(root).steps.tolist() == [0, 5, 9]
    with pytest.raises(RunError, match="step 10"):
        early[2]


def test_reopened_writer_goes_on(root):
    start(root).append(rows([0, 1]))
    again = TrajectoryWriter(root)
    assert again.steps == [0, 1]
    again.append(rows([2]))
    np.testing.assert_array_equal(Trajectory.open(root).block(), rows([0, 1, 2]).weights)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_rows_of_zeros_and_of_nan_are_stored(tmp_path, value):
    root = create_run(tmp_path / "run.zarr")
    writer = start(root, slots=3)
    batch = rows([0])
    batch.weights[...] = value
    writer.append(batch)
    assert len([p for p in (tmp_path / "run.zarr/trajectory/weights/c").rglob("*") if p.is_file()]) == 1
    np.testing.assert_array_equal(Trajectory.open(root)[0].weights, batch.weights[0])


def test_the_arrays_grow(root):
    writer = start(root)
    for first in range(0, 3000, 500):
        writer.append(rows(range(first, first + 500)))
    t = Trajectory.open(root)
    np.testing.assert_array_equal(t.steps, np.arange(3000))
    np.testing.assert_array_equal(t.block(slice(2040, 2060)), rows(range(2040, 2060)).weights)
    writer.close()
    assert root["trajectory/weights"].shape[0] == 3000


def test_a_parameter_group_added_later_is_nan_before(root):
    writer = start(root)
    writer.append(rows([0]))
    later = rows([1])
    later.learning_rate = np.array([[1.0, 2.0, 3.0]])
    writer.append(later)
    np.testing.assert_array_equal(Trajectory.open(root).learning_rates, [[0, 0, np.nan], [1, 2, 3]])


@pytest.mark.parametrize("size", [1, 10, 1000, 2**20 - 1, 2**20 + 1, 3 * 2**20 + 7, 11_689_512, 25_557_032])
def test_chunks_divide_a_row_evenly(size):
    chunk, shard = chunking(size, 4, several_rows=False)
    assert shard[0] == 1
    assert shard[1] % chunk[1] == 0
    assert size <= shard[1] <= size * 1.01 + 1
    assert chunk[1] <= 1.5 * 2**20


def test_a_run_without_trajectory_is_said_to_be_one(root):
    with pytest.raises(RunError, match="no trajectory"):
        Trajectory.open(root)
    with pytest.raises(RunError, match="nothing at"):
        Trajectory.open("nowhere.zarr")


@pytest.mark.parametrize("slots", [0, 6])
def test_what_is_amended_stays_so_when_more_is_written(root, slots):
    writer = start(root, slots=slots)
    writer.append(rows([0, 1]))
    writer.amend(1, loss=0.25, epoch=None)
    writer.append(rows([2]))
    t = Trajectory.open(root)
    assert t.losses.tolist() == [0, 0.25, -2]
    assert t.epochs.tolist() == [0, 0.5, 1]


def test_an_early_snapshot_is_amended_without_harm_to_its_neighbours(root):
    writer = start(root)
    writer.append(rows(range(1500)))
    writer.append(rows([1500]))
    writer.amend(3, loss=0.25, epoch=None)
    writer.append(rows([1501]))
    t = Trajectory.open(root)
    expected = -np.arange(1502.0)
    expected[3] = 0.25
    np.testing.assert_array_equal(t.losses, expected)
    np.testing.assert_array_equal(t.block(), rows(range(1502)).weights)
