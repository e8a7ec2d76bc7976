"""What a run says against itself, and the snapshots beside its path: written once, read by everybody."""

import json
import math

import numpy as np
import pytest
import zarr
from torch import nn

from landscape_hooks.errors import DamagedRunError, LandscapeError
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.trajectory.doubts import (
    Doubt,
    add_doubt,
    closing_state,
    drop_doubts,
    read_doubts,
    set_closing,
)
from landscape_hooks.trajectory.marks import put_mark, read_marks
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter
from tests.hostile import sharded

LOSS = Doubt("loss", "The stored loss is 0.52 at the end, the training's own 0.94", {"stored": 0.52, "live": 0.94})
ODD = Doubt("steps", "3 steps were not seen", {"seen": math.nan, "least": -math.inf, "most": math.inf, "n": 3})


@pytest.fixture
def run(tmp_path):
    """A run of five weights and two buffers with two snapshots."""
    root = create_run(tmp_path / "run.zarr")
    layout, buffers = ParameterLayout.of(nn.Linear(5, 1, bias=False)), ParameterLayout.of_buffers(nn.BatchNorm1d(1))
    scalars = {name: [0, 1] for name in ("step", "epoch", "loss", "wall_time")}
    rows = np.arange(10, dtype="f4").reshape(2, 5)
    writer = TrajectoryWriter.create(root, layout, buffers, groups=2)
    writer.append(Rows(rows, np.ones((2, 2), "f4"), scalars, np.full((2, 2), 0.1), momentum=np.array([[0.9], [0.8]])))
    return tmp_path / "run.zarr"


def test_doubts_are_read_as_they_were_written(run):
    root = open_run(run, mode="r+")
    assert read_doubts(root) == ()
    for doubt in (LOSS, ODD, LOSS):
        add_doubt(root, doubt)
    document = (run / "zarr.json").read_text()
    json.loads(document, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = Trajectory.open(run).doubts
    assert [doubt.kind for doubt in found] == ["steps", "loss"]
    assert found[1] == LOSS
    assert math.isnan(found[0].numbers["seen"])
    assert (found[0].numbers["least"], found[0].numbers["most"], found[0].numbers["n"]) == (-math.inf, math.inf, 3)
    drop_doubts(root, "loss")
    assert [doubt.kind for doubt in Trajectory.open(run).doubts] == ["steps"]
    drop_doubts(root)
    assert Trajectory.open(run).doubts == ()


def test_a_doubt_is_seen_through_a_trajectory_that_was_open_before(run):
    early = Trajectory.open(run)
    add_doubt(open_run(run, mode="r+"), LOSS)
    assert early.doubts == (LOSS,)


def test_two_writers_of_attributes_do_not_undo_each_other(run):
    first, second = open_run(run, mode="r+"), open_run(run, mode="r+")
    add_doubt(first, LOSS)
    set_closing(second, "checked")
    add_doubt(first, ODD)
    root = open_run(run)
    assert [doubt.kind for doubt in read_doubts(root)] == ["loss", "steps"]
    assert closing_state(root) == ("checked", "")
    assert "layout" in root.attrs


def test_the_end_of_a_recording(run):
    root = open_run(run, mode="r+")
    assert closing_state(root) == ("unchecked", "")
    set_closing(root, "recording")
    assert closing_state(open_run(run)) == ("recording", "")
    set_closing(root, "unchecked", "The training was ended by a signal")
    assert closing_state(open_run(run)) == ("unchecked", "The training was ended by a signal")
    with pytest.raises(ValueError, match="none of"):
        set_closing(root, "sure")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("doubts", "loss"),
        ("doubts", [7]),
        ("doubts", [{"kind": "loss"}]),
        ("doubts", [{"kind": "loss", "said": 3}]),
        ("doubts", [{"kind": "loss", "said": "x", "numbers": {"a": "many"}}]),
        ("doubts", [{"kind": "loss", "said": "x", "numbers": {"a": 10**400}}]),
        ("doubts", [{"kind": "loss", "said": "x", "numbers": {"a": True}}]),
        ("doubts", [{"kind": "loss", "said": "x"}] * 1001),
        ("closing", "checked"),
        ("closing", {"state": ["checked"]}),
        ("closing", {"state": "checked", "said": 1}),
    ],
)
def test_attributes_of_a_stranger_are_an_error_of_the_run(run, key, value):
    root = open_run(run, mode="r+")
    root.attrs[key] = value
    with pytest.raises(DamagedRunError):
        read_doubts(root), closing_state(root)


def test_a_terminal_is_not_reached_by_a_doubt(run):
    root = open_run(run, mode="r+")
    root.attrs["doubts"] = [{"kind": "a\x1b[2J", "said": "b\nc" + "d" * 9999, "numbers": {"\x07": 1}}]
    (doubt,) = read_doubts(root)
    assert doubt.kind.isprintable()
    assert doubt.said.isprintable()
    assert len(doubt.said) < 3000


# -- marks ---------------------------------------------------------------------------------------------------
def mark(root, name="best", *, size=5, value=7.0, **facts):
    weights, buffers = np.full(size, value, "f4"), np.array([1, 2], "f4")
    put_mark(root, name, weights, buffers, step=3, wall_time=5.5, **facts)


def test_a_mark_is_a_snapshot_beside_the_path(run):
    root = open_run(run, mode="r+")
    assert Trajectory.open(run).marks == {}
    mark(root, loss=math.inf)
    mark(root, "final", value=9.0, loss=0.25, epoch=2)
    t = Trajectory.open(run)
    assert len(t) == 2
    assert list(t.marks) == ["best", "final"]
    best, final = t.marks["best"], t.marks["final"]
    assert (best.step, best.loss, best.wall_time) == (3, math.inf, 5.5)
    assert math.isnan(best.epoch)
    assert (final.loss, final.epoch) == (0.25, 2)
    np.testing.assert_array_equal(best.weights, np.full(5, 7.0))
    np.testing.assert_array_equal(best.buffers, [1, 2])
    assert best.weights.dtype == np.float32
    assert np.isnan(best.learning_rate).all()
    with pytest.raises(KeyError):
        t.marks["first"]


def test_a_mark_of_the_same_name_replaces_the_earlier_one(run):
    root = open_run(run, mode="r+")
    mark(root)
    mark(root, value=8.0)
    assert Trajectory.open(run).marks["best"].weights.tolist() == [8.0] * 5


def test_a_mark_that_was_not_finished_does_not_count(run):
    root = open_run(run, mode="r+")
    mark(root)
    attributes = dict(root["marks/best"].attrs)
    del attributes["complete"]
    root["marks/best"].attrs.put(attributes)
    assert list(Trajectory.open(run).marks) == []
    mark(root)
    assert list(Trajectory.open(run).marks) == ["best"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "../x"])
def test_the_name_of_a_mark_is_one_component_of_a_path(run, name):
    with pytest.raises(LandscapeError, match="Found the mark"):
        mark(open_run(run, mode="r+"), name)


def test_a_mark_of_another_model_is_an_error_of_the_run(run):
    mark(open_run(run, mode="r+"), size=6)
    with pytest.raises(DamagedRunError, match="6 weights"):
        list(Trajectory.open(run).marks)


@pytest.mark.parametrize(("key", "value"), [("step", -1), ("step", "3"), ("loss", "much"), ("epoch", None)])
def test_facts_of_a_mark_are_checked(run, key, value):
    root = open_run(run, mode="r+")
    mark(root)
    root["marks/best"].attrs[key] = value
    with pytest.raises(DamagedRunError):
        list(Trajectory.open(run).marks)


def test_marks_of_ranks_count_when_all_have_written_one_at_the_same_step(tmp_path):
    root = open_run(sharded(tmp_path / "run.zarr"), mode="r+")
    first, second = root["ranks/0"], root["ranks/1"]
    put_mark(first, "best", np.arange(10, dtype="f4"), np.empty(0, "f4"), step=2, wall_time=1)
    assert list(Trajectory.open(root).marks) == []
    put_mark(second, "best", np.arange(100, 106, dtype="f4"), np.empty(0, "f4"), step=1, wall_time=1)
    assert list(Trajectory.open(root).marks) == []
    put_mark(second, "best", np.arange(100, 106, dtype="f4"), np.empty(0, "f4"), step=2, wall_time=1)
    # rank 0 has rows 0 and 1 of the weight and the bias, rank 1 rows 2 and 3
    expected = [*range(6), *range(100, 106), *range(6, 10)]
    assert Trajectory.open(root).marks["best"].weights.tolist() == expected
    assert read_marks(first)["best"].size == 10


# -- momentum ------------------------------------------------------------------------------------------------
def test_momentum_lies_beside_the_learning_rate(run):
    t = Trajectory.open(run)
    np.testing.assert_array_equal(t.momenta, [[0.9, np.nan], [0.8, np.nan]])
    np.testing.assert_array_equal(t[1].momentum, [0.8, np.nan])


def test_a_row_without_momentum_and_a_group_that_comes_later(run):
    writer = TrajectoryWriter(open_run(run, mode="r+"))
    for step, groups in ((2, 1), (3, 3), (4, 2)):
        scalars = {name: [step] for name in ("step", "epoch", "loss", "wall_time")}
        rates = np.full((1, groups), float(step))
        momentum = None if step == 4 else rates / 10
        writer.append(Rows(np.zeros((1, 5), "f4"), np.zeros((1, 2), "f4"), scalars, rates, momentum=momentum))
    nan = np.nan
    t = Trajectory.open(run)
    np.testing.assert_array_equal(
        t.momenta, [[0.9, nan, nan], [0.8, nan, nan], [0.2, nan, nan], [0.3, 0.3, 0.3], [nan, nan, nan]]
    )
    np.testing.assert_array_equal(t.learning_rates[2:], [[2, nan, nan], [3, 3, 3], [4, 4, nan]])


def test_a_run_without_the_array_has_no_momentum(run):
    del open_run(run, mode="r+")["trajectory/momentum"]
    t = Trajectory.open(run)
    assert t.momenta.shape == t.learning_rates.shape
    assert np.isnan(t.momenta).all()
    writer = TrajectoryWriter(open_run(run, mode="r+"))
    scalars = {name: [2] for name in ("step", "epoch", "loss", "wall_time")}
    rows = Rows(np.zeros((1, 5), "f4"), np.zeros((1, 2), "f4"), scalars, np.ones((1, 2)), momentum=np.ones((1, 2)))
    writer.append(rows)
    assert "momentum" not in zarr.open_group(run, mode="r")["trajectory"]
