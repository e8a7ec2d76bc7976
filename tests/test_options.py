"""Option objects: each checks itself, a name means its defaults, and the command line's flat options build them."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import landscape_hooks
from landscape_hooks import PCA, Hessian, Local, Points, Random, Ray, Snapshots, Surface, analyze, record
from landscape_hooks.analysis import analyze as room
from landscape_hooks.analysis.frame import parse_directions
from landscape_hooks.cli.analyze import analyze as command
from landscape_hooks.errors import LandscapeError, ObjectiveError, PlaneError, RunError
from landscape_hooks.evaluation.engines import parse_engine

OBJECTS = [PCA(), Random(), Hessian(), Points(), Local(), Ray(), Snapshots()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model, criterion = nn.Linear(3, 2), nn.CrossEntropyLoss()
    data = torch.randn(12, 3), torch.randint(0, 2, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    path = tmp_path_factory.mktemp("options") / "run.zarr"
    with record(model, optimizer, path, every=1, criterion=criterion, data=data):
        for _ in range(9):
            optimizer.zero_grad()
            criterion(model(data[0]), data[1]).backward()
            optimizer.step()
    return str(path)


def drawn(run, **options):
    return analyze(run, progress=False, **{"size": 3, "engine": Local(tune=False), **options})


# -- what they are ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("made", OBJECTS, ids=lambda made: type(made).__name__)
def test_an_option_object_is_frozen_and_says_what_it_is(made):
    assert getattr(landscape_hooks, type(made).__name__) is type(made)
    assert made == type(made)(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
    assert eval(repr(made)) == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.anything = 1
    json.dumps(made.attrs)


def test_the_signature_stays_short():
    assert len(inspect.signature(analyze).parameters) <= 18


@pytest.mark.parametrize("name", ["Schedule", "Every", "AtSteps", "LogSpaced", "When", "Thinning"])
def test_schedules_are_at_the_root(name):
    from landscape_hooks.recording import schedule

    assert getattr(landscape_hooks, name) is getattr(schedule, name)


def test_a_name_means_the_defaults():
    assert [parse_directions(name) for name in ("pca", "random", "hessian", "points")] == OBJECTS[:4]
    assert [parse_engine(name) for name in ("local", "ray")] == OBJECTS[4:6]
    for wrong in ("pcb", None, PCA, 3):
        with pytest.raises(PlaneError, match="directions"):
            parse_directions(wrong)
    for wrong in ("slurm", None, Local, 3):
        with pytest.raises(ObjectiveError, match="engine"):
            parse_engine(wrong)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (PCA, {"solver": "svd"}),
        (PCA, {"components": (1, 1)}),
        (PCA, {"components": (0, -1)}),
        (PCA, {"components": (0, 1, 2)}),
        (PCA, {"components": ()}),
        (PCA, {"components": 0}),
        (PCA, {"components": (0, 0.5)}),
        (Random, {"norm": "tensor"}),
        (Points, {"points": "a,b,c"}),
        (Points, {"points": ("0:1:2",)}),
        (Points, {"points": ("-1",)}),
        (Local, {"workers": 0}),
        (Local, {"workers": 2.5}),
        (Local, {"workers": True}),
        (Local, {"precision": "float16"}),
        (Local, {"stream": "yes"}),
        (Local, {"tune": None}),
        (Ray, {"cpus": 0}),
        (Ray, {"cpus": 1.5}),
        (Ray, {"gpus": -1}),
        (Ray, {"gpus": float("nan")}),
        (Ray, {"address": 6379}),
        (Ray, {"workers": 0}),
        (Snapshots, {"start": 5, "stop": 4}),
        (Snapshots, {"start": -1}),
        (Snapshots, {"last": 0}),
        (Snapshots, {"every": 0}),
        (Snapshots, {"every": 1.5}),
        (Snapshots, {"only": ()}),
        (Snapshots, {"only": ("a",)}),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_made(kind, wrong):
    with pytest.raises(LandscapeError) as refused:
        kind(**wrong)
    assert str(refused.value).startswith("Found ")


def test_options_are_taken_in_their_usual_forms():
    assert Points("0:, 1:,250") == Points(["0:", "1:", 250]) == Points(("0:", "1:", np.int64(250)))
    assert PCA([np.int64(2), 0]).components == (2, 0)
    assert Snapshots(only=range(3)).only == Snapshots(only=[2, 1, 0]).only == (0, 1, 2)
    assert Snapshots(only=4).only == (4,)


def test_what_they_are_is_in_the_surface(run):
    surface = drawn(run, directions=PCA((1, 0), "gram"), snapshots=Snapshots(start=2, every=2))
    attrs = surface.attrs
    assert (attrs["directions"], attrs["solver"], attrs["engine"]) == ("pca", "gram", "local")
    assert attrs["direction_attrs"]["components"] == [1, 0]
    assert attrs["snapshots"] == {"start": 2, "every": 2}
    assert attrs["labels"] == ["PC 2", "PC 1"]


def test_a_size_of_one_column_is_a_line(run):
    for size in ((5, 1), "5x1"):
        surface = drawn(run, size=size)
        assert surface.name == "line"
        assert surface.shape == (5, 1)
    assert drawn(run, size=(5, 1), directions=PCA(components=(1,))).attrs["labels"] == ["PC 2", ""]
    with pytest.raises(PlaneError, match="component 1 alone"):
        drawn(run, directions=PCA(components=(1,)))
    for wrong in ((1, 5), (1, 1), 1):
        with pytest.raises(PlaneError, match="size"):
            drawn(run, size=wrong)


# -- the command line ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"directions": PCA(), "engine": Local(), "snapshots": Snapshots(), "size": "25"}),
        (["--components", "2,0", "--solver", "gram"], {"directions": PCA((2, 0), "gram")}),
        (["--directions", "random", "--norm", "layer"], {"directions": Random("layer")}),
        (["--directions", "hessian"], {"directions": Hessian()}),
        (["--directions", "points", "--points", "0,3,6"], {"directions": Points("0,3,6")}),
        (
            ["--workers", "2", "--device", "cpu", "--precision", "bfloat16", "--no-tune", "--stream"],
            {"engine": Local(2, "cpu", "bfloat16", False, True)},
        ),
        (
            ["--engine", "ray", "--address", "auto", "--worker-cpus", "8", "--worker-gpus", "0.5", "--no-stream"],
            {"engine": Ray("auto", cpus=8, gpus=0.5, stream=False)},
        ),
        (["--line", "--size", "7"], {"size": (7, 1)}),
        (["--line", "--size", "7x9"], {"size": (7, 1)}),
        (
            ["--from", "3", "--to", "9", "--last", "4", "--every", "2", "--only", "3,4"],
            {"snapshots": Snapshots(3, 9, 4, 2, (3, 4))},
        ),
    ],
)
def test_flat_options_make_the_objects(words, expected, monkeypatch):
    class Called(Exception):
        pass

    def compute(*runs, **options):
        called.update(options)
        raise Called

    called = {}
    monkeypatch.setattr(room, "analyze", compute)
    found = CliRunner().invoke(command, ["RUN", *words])
    assert isinstance(found.exception, Called), found.output or found.exception
    assert {name: called[name] for name in expected} == expected
    assert called.keys() <= inspect.signature(analyze).parameters.keys()


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["--norm", "layer"], "--directions random"),
        (["--directions", "random", "--solver", "gram"], "--directions pca"),
        (["--points", "1,2,3"], "--directions points"),
        (["--address", "auto"], "--engine ray"),
        (["--worker-gpus", "1"], "--engine ray"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(run, words, mend):
    found = CliRunner().invoke(command, [run, *words])
    assert isinstance(found.exception, LandscapeError)
    assert f"Add {mend}" in str(found.exception)


# -- which snapshots ----------------------------------------------------------------------------------------
STEPS = np.array([0, 5, 10, 15, 20, 30, 45])


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, STEPS),
        ({"start": 10}, [10, 15, 20, 30, 45]),
        ({"stop": 10}, [0, 5, 10]),
        ({"start": 6, "stop": 29}, [10, 15, 20]),
        ({"last": 2}, [30, 45]),
        ({"last": 99}, STEPS),
        ({"every": 3}, [0, 15, 45]),
        ({"every": 99}, [45]),
        ({"only": [45, 0, 10]}, [0, 10, 45]),
        ({"stop": 30, "last": 4, "every": 2}, [15, 30]),
    ],
)
def test_the_snapshots_that_are_chosen(options, left):
    np.testing.assert_array_equal(STEPS[Snapshots(**options).places(STEPS)], left)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"start": 46}, "steps 0 to 45"), ({"only": [0, 7]}, "of step 7"), ({"stop": 5, "only": [10]}, "--to")],
)
def test_snapshots_that_are_not_there(options, words):
    with pytest.raises(RunError, match=words):
        Snapshots(**options).places(STEPS)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("directions", ["pca", PCA(solver="covariance"), "random", "hessian", Points("4,6,8")])
def test_an_analysis_of_some_snapshots_is_that_of_a_run_that_has_no_others(run, tmp_path, directions):
    """Plane, path and extent are those of a store into which only these snapshots were written."""
    from landscape_hooks import Trajectory
    from landscape_hooks.store.run import open_run

    chosen = Snapshots(start=2, stop=8, every=2)
    surface = drawn(run, directions=directions, snapshots=chosen, name="some")
    np.testing.assert_array_equal(surface.steps, [2, 4, 6, 8])
    trajectory = Trajectory.open(run)
    weights = np.stack([snapshot.weights for snapshot in trajectory])[[2, 4, 6, 8]].astype(float)
    group = open_run(run)["surfaces/some"]
    origin, vectors = group["origin"][...].astype(float), group["directions"][...].astype(float)
    np.testing.assert_allclose(origin, weights[1 if isinstance(directions, Points) else -1], atol=1e-7)
    coordinates = np.linalg.lstsq(vectors.T, (weights - origin).T, rcond=None)[0].T
    np.testing.assert_allclose(surface.path, coordinates, atol=1e-5)
    if isinstance(directions, PCA) or directions == "pca":
        ratio = np.linalg.svd(weights - weights.mean(axis=0), compute_uv=False) ** 2
        np.testing.assert_allclose(surface.explained_variance_ratio, (ratio / ratio.sum())[:2], rtol=1e-4)
    whole = drawn(run, directions=directions, name="some")  # the same name, and another definition
    assert len(whole.steps) == 10
    assert Surface.open(run, "some").attrs["snapshots"] == {}


def test_the_stored_gram_matrix_is_that_of_all_snapshots(run):
    from landscape_hooks.store.run import open_run

    drawn(run)
    drawn(run, snapshots=Snapshots(last=4), name="few")
    assert open_run(run)["gram/matrix"].shape == (10, 10)


def test_too_few_snapshots_are_left(run):
    with pytest.raises(RunError, match="1 snapshot"):
        drawn(run, snapshots=Snapshots(last=1))
    with pytest.raises(PlaneError, match="recorded step"):
        drawn(run, snapshots=Snapshots(last=3), directions=Points("0,8,9"))
